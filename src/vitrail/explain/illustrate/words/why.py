"""Step 8: maps, and what they are worth."""

from vitrail.explain.illustrate.words import Words

WHY = {
    "why.title": Words("Why? Maps, and what each of them is worth", "为什么？各种解释图及其可信度"),
    "why.lead": Words(
        "Many methods paint a map of where the answer {label} comes from. They disagree, and a pretty map proves "
        "nothing. So each of them is tested: take the patches away in the order that the map gives, the most "
        "important first. If the map is right, the probability falls at once. Bring them back in the same order, and "
        "it rises at once.",
        "许多方法都能画出回答 {label} 来自哪里的解释图。它们彼此不一致，而好看的图什么也证明不了。所以每一种都要接受"
        "检验：按图给出的顺序，从最重要的图像块开始逐一删除。如果图是对的，概率会立刻下降；再按同样的顺序放回，概率会"
        "立刻上升。",
    ),
    "why.random": Words(
        "The last map is drawn at random. {count} such maps make the grey band: a method inside it says nothing that "
        "dice would not.",
        "最后一幅图是随机画的。{count} 幅这样的图构成灰色区间：落在区间内的方法，并不比掷骰子说出更多。",
    ),
    "why.scale": Words(
        "One scale for all maps: each patch’s part of the map, by the side of an even share, which is 1. Blue and "
        "orange where a method tells evidence against the class (blue) from evidence for it (orange).",
        "所有图共用一个标尺：每个图像块在图中所占的份额，与平均份额（即 1）相比。区分支持与反对证据的方法用橙色表示支"
        "持、蓝色表示反对。",
    ),
    "why.unit": Words("times an even share", "平均份额的倍数"),
    "why.here": Words("at the chosen patch", "在选定的图像块处"),
    "unit.share": Words("of the attention", "（注意力份额）"),
    "unit.logits": Words("logits", "（逻辑值）"),
    "unit.slope": Words("logits per unit of input", "（每单位输入的逻辑值）"),
    "why.photo": Words("The image", "图像"),
    "why.test": Words("The test", "检验"),
    "why.method": Words("method", "方法"),
    "why.deletion": Words("deletion", "删除"),
    "why.insertion": Words("insertion", "插入"),
    "why.deletion.note": Words("lower is better", "越低越好"),
    "why.insertion.note": Words("higher is better", "越高越好"),
    "why.band": Words("random maps, lowest to highest", "随机图，最低到最高"),
    "why.verdict": Words("verdict", "结论"),
    "why.auc": Words(
        "The mean probability of the class (area under the curve) while patches go, and while they come back. A patch "
        "that goes leaves the sequence: the model sees no grey squares, which it has never been shown.",
        "图像块逐个删除和逐个放回过程中，该类别概率的平均值（曲线下面积）。被删除的图像块直接离开序列：模型不会看到它"
        "从未见过的灰色方块。",
    ),
    "why.both": Words("better than every random map, on both counts", "两项都优于所有随机图"),
    "why.one": Words("better than every random map on one count only", "只有一项优于所有随机图"),
    "why.none": Words("no better than random", "不优于随机"),
    "why.baseline": Words("the baseline", "基线"),
    "why.agree": Words("Do they agree?", "它们一致吗？"),
    "why.agree.note": Words(
        "Rank correlation between the maps: 1 where two put the patches in the same order, 0 where they have nothing "
        "in common. Where methods disagree they cannot all be right about this image, and perhaps none is. Believe "
        "those that pass the test, for this image, and read the others as questions.",
        "各图之间的等级相关：1 表示两者对图像块的排序相同，0 表示毫无共同之处。方法不一致时，对这张图像不可能都对，也"
        "可能都不对。就这张图像而言，相信通过检验的方法，把其余的当作疑问。",
    ),
    "why.curve": Words("Probability while patches go", "图像块逐个删除时的概率"),
    "why.attention": Words("last attention", "最后一层注意力"),
    "why.rollout": Words("attention rollout", "注意力展开"),
    "why.relevance": Words("relevance (Chefer)", "相关性（Chefer）"),
    "why.legrad": Words("LeGrad", "LeGrad"),
    "why.grad_cam": Words("Grad-CAM", "Grad-CAM"),
    "why.input_gradient": Words("input gradient", "输入梯度"),
    "why.occlusion": Words("occlusion", "遮挡"),
    "why.random.name": Words("random", "随机"),
    "why.attention.says": Words(
        "Where the last block looks, mean over heads. The same for every class.",
        "最后一块看向哪里，各头平均。对所有类别都相同。",
    ),
    "why.rollout.says": Words(
        "Attention followed through all blocks. The same for every class.", "沿所有块追踪的注意力。对所有类别都相同。"
    ),
    "why.relevance.says": Words(
        "Attention that raises this class, followed through all blocks.", "提高该类别的注意力，沿所有块追踪。"
    ),
    "why.legrad.says": Words(
        "How much each block’s score would rise with more attention.", "注意力增大时各块得分会提高多少。"
    ),
    "why.grad_cam.says": Words(
        "Features that the class rises with, as the last attention reads them.",
        "使该类别升高的特征，取自最后一层注意力读取之处。",
    ),
    "why.input_gradient.says": Words("How sensitive the class is to each pixel.", "该类别对每个像素有多敏感。"),
    "why.occlusion.says": Words("How far the logit falls without the patch.", "去掉该图像块后逻辑值下降多少。"),
    "why.random.says": Words("Nothing: numbers drawn by chance.", "什么也没有：随机抽取的数。"),
}
