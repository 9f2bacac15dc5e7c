import pytest

from vitrail.train.progress import Progress, duration, print_line, step_line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (75.0, "1 min 15 s"), (3599.0, "59 min 59 s"), (7320.0, "2 h 2 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_whole_step_line() -> None:
    news = Progress("step", 5, 200, 0.25, 10.0, loss=1.5, lr=1e-3, images_per_second=12.34, eta_seconds=75.0)
    assert step_line(news) == "step 5/200  epoch 0.25/10  loss 1.5000  lr 1.00e-03  12.3 img/s  1 min 15 s left"
    assert step_line(Progress("step", 5, 200, 0.25, 10.0)) == "step 5/200  epoch 0.25/10"


def test_a_log_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(1, 2001):
        print_line(Progress("step", step, 2000, epochs=1.0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21 and lines[0].startswith("step 1/2000") and lines[-1].startswith("step 2000/2000")


def test_other_news(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(Progress("start", text="Training."))
    print_line(Progress("evaluating", 3, 4))
    print_line(Progress("epoch", 3, 4, 1.0, 2.0, score=0.9876))
    print_line(Progress("stopped", 3, 4, text="Stopped."))
    assert capsys.readouterr().out == "Training.\nepoch 1.0/2  held-out top-1 98.76 %\nStopped.\n"
