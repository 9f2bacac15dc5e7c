"""Steps 5 to 7: attention, the answer through depth, the logit as a sum."""

from vitrail.explain.illustrate.words import Words

INSIDE = {
    "heads.title": Words("Attention: who looks at whom", "注意力：谁看向谁"),
    "heads.lead": Words(
        "In each of {blocks} encoder blocks every token looks at all tokens and takes from each as much as its "
        "attention says. It does so {heads} times at once, in as many heads, each with its own idea of what matters. "
        "Below is what one token, the query, looks at: in every block, in every head.",
        "在 {blocks} 个编码器块的每一块中，每个标记都看向所有标记，并按注意力的大小从中取用信息。这由 {heads} 个头同"
        "时进行，每个头对什么重要各有看法。下面是一个标记（查询）在每一块、每个头中看向哪里。",
    ),
    "heads.not": Words(
        "Attention says where information was taken from, not what it was used for: step 8 tests that.",
        "注意力说明信息取自哪里，而不是信息作何用途：第 8 步会检验这一点。",
    ),
    "heads.query": Words("Whose attention?", "谁的注意力？"),
    "heads.of": Words("The query is {token}.", "查询是{token}。"),
    "heads.big": Words(
        "Block {block}, head {head}: the brighter a patch, the more the query takes from it.",
        "第 {block} 块第 {head} 头：图像块越亮，查询从中取用的越多。",
    ),
    "heads.all": Words("Every block and every head, for this query", "这个查询在每一块、每个头中"),
    "heads.all.note": Words(
        "Columns are blocks, from the first to the last; rows are heads. One scale for all maps: the share of its "
        "attention that the query gives, by the side of an even share of {even} for each of {tokens} tokens. Left of "
        "each map, from above: {prefix}.",
        "列是块，从第一块到最后一块；行是头。所有图共用一个标尺：查询给出的注意力份额，与 {tokens} 个标记平均分得的 "
        "{even} 相比。各图左侧自上而下：{prefix}。",
    ),
    "heads.all.none": Words(
        "Columns are blocks, from the first to the last; rows are heads. One scale for all maps: the share of its "
        "attention that the query gives, by the side of an even share of {even} for each of {tokens} tokens.",
        "列是块，从第一块到最后一块；行是头。所有图共用一个标尺：查询给出的注意力份额，与 {tokens} 个标记平均分得的 "
        "{even} 相比。",
    ),
    "heads.scale": Words(
        "share of the query’s attention; yellow: so much or more", "查询注意力的份额；黄色表示达到或超过该值"
    ),
    "heads.block": Words("block", "块"),
    "heads.head": Words("head", "头"),
    "heads.top": Words("What it looks at most", "它最关注的"),
    "heads.key": Words("looked at", "被看的标记"),
    "heads.share": Words("share", "份额"),
    "heads.first": Words("most looked at", "最受关注"),
    "heads.table": Words("Each head’s favourite, for this query", "这个查询在每个头中最关注的标记"),
    "heads.says": Words(
        "Block {block}, head {head}: {query} takes {share} from {token}.",
        "第 {block} 块第 {head} 头：{query}从{token}取用 {share}。",
    ),
    "heads.name": Words("Block {block}, head {head}", "第 {block} 块第 {head} 头"),
    "heads.fewer": Words(
        "This image has too many tokens for a page to carry all of their attention; {count} of them can be the query.",
        "这张图像的标记太多，一页无法携带全部注意力；其中 {count} 个可作为查询。",
    ),
    "heads.keys": Words("What the chosen head looks at", "所选的头看向哪里"),
    "depth.title": Words("The answer takes shape", "回答逐渐成形"),
    "depth.lead": Words(
        "Behind each block the class token can be asked early: give it to the final norm and the head as if the "
        "network ended there. The lines are what it would have answered.",
        "在每一块之后都可以提前询问分类标记：把它直接交给最后的归一化和头部，就像网络到此为止。曲线是它会给出的回答。",
    ),
    "depth.lead.patches": Words(
        "Behind each block the head can be asked early: give it what it reads as if the network ended there. The "
        "lines are what it would have answered.",
        "在每一块之后都可以提前询问头部：把它所读的内容直接交给它，就像网络到此为止。曲线是它会给出的回答。",
    ),
    "depth.caveat": Words(
        "Norm and head were trained on the last block’s tokens only. Early answers, in the grey part, are off their "
        "ground: that a class leads there says little.",
        "归一化与头部只用最后一块的标记训练过。灰色区域里的早期回答超出了它们的适用范围：某个类别在那里领先说明不了什"
        "么。",
    ),
    "depth.first": Words(
        "From block {block} on, the leading class is the final one.", "从第 {block} 块起，领先的就是最终的类别。"
    ),
    "depth.first.zero": Words(
        "Already the embedded patches, before any block, give the final class.",
        "在任何块之前，嵌入后的图像块就已给出最终的类别。",
    ),
    "depth.chart": Words(
        "Probability of the leading classes behind each block, in powers of ten. The dashed line is a blind guess, "
        "{guess}; what lies below the chart is drawn on its edge.",
        "各块之后领先类别的概率，按十的幂标度。虚线是盲猜的概率 {guess}；低于图下缘的值画在下缘上。",
    ),
    "depth.table": Words("Behind each block", "各块之后"),
    "depth.depth": Words("behind block", "块之后"),
    "depth.embedding": Words("embedding", "嵌入"),
    "depth.leader": Words("leading class", "领先类别"),
    "depth.chance": Words("its probability", "其概率"),
    "depth.rank": Words("rank of {label}", "{label} 的名次"),
    "depth.own": Words("probability of {label}", "{label} 的概率"),
    "sum.title": Words("The logit as a sum", "逻辑值是一个和"),
    "sum.lead": Words(
        "Every block only adds to the class token. With the size by which the final norm divides kept as it is, norm "
        "and head are linear, so the logit of {label} is exactly the sum of what the embedding, every head, every MLP "
        "and the constants put in.",
        "每一块都只是向分类标记上加东西。把最后的归一化所除的尺度固定下来，归一化与头部就是线性的，因此 {label} 的逻"
        "辑值恰好等于嵌入、每个头、每个 MLP 和常数项各自贡献之和。",
    ),
    "sum.lead.reads": Words(
        "Where the head reads one class token, a logit is exactly the sum of what each head and MLP added to it. This "
        "model’s head reads otherwise, so that split would not be exact and is not shown. What holds for every head "
        "is the sum over depth: the answer before the first block, and by how much each block moves it.",
        "如果头部只读一个分类标记，逻辑值就恰好等于每个注意力头和 MLP 对它的贡献之和。这个模型的头部不是这样读取的，"
        "那种分解不精确，因此不显示。对任何头部都成立的是沿深度的和：第一块之前的回答，以及每一块把它移动了多少。",
    ),
    "sum.lead.tanh": Words(
        "This model has a tanh layer before the head, which is not linear: what a head adds depends on all others, so "
        "the split by heads would not be exact and is not shown. What holds for every head is the sum over depth: the "
        "answer before the first block, and by how much each block moves it.",
        "这个模型的头部之前有一个非线性的 tanh 层：每个头的贡献取决于其他所有头，按头的分解不精确，因此不显示。对任何"
        "头部都成立的是沿深度的和：第一块之前的回答，以及每一块把它移动了多少。",
    ),
    "sum.direct": Words(
        "It is what each part puts in directly, not what others make of it further up.",
        "这里是每个部分直接的贡献，不包括更深处的部分对它的再加工。",
    ),
    "sum.chart": Words(
        "Each step begins where the one before ended. Orange raises the logit, blue lowers it.",
        "每一步从上一步结束处开始。橙色提高逻辑值，蓝色降低它。",
    ),
    "sum.part": Words("part", "部分"),
    "sum.adds": Words("adds", "贡献"),
    "sum.sofar": Words("so far", "累计"),
    "sum.embedding": Words("embedding", "嵌入"),
    "sum.attention": Words("block {block}, attention", "第 {block} 块，注意力"),
    "sum.mlp": Words("block {block}, MLP", "第 {block} 块，MLP"),
    "sum.block": Words("block {block}", "第 {block} 块"),
    "sum.constant": Words("constants of norm and head", "归一化与头部的常数项"),
    "sum.total": Words("sum of all parts", "各部分之和"),
    "sum.logit": Words("the model’s logit", "模型的逻辑值"),
    "sum.gap": Words(
        "Sum and logit differ by {gap}, which is rounding in the last digits of the computer’s numbers.",
        "和与逻辑值相差 {gap}，这只是计算机数值末位的舍入。",
    ),
    "sum.heads": Words("What each head adds", "每个头的贡献"),
    "sum.heads.note": Words(
        "The attention of a block is the sum of its heads and of the bias of its output projection.",
        "一块的注意力等于各头之和，再加上输出投影的偏置。",
    ),
    "sum.bias": Words("bias", "偏置"),
}
