"""What stands around the eight steps, and what several of them share."""

from vitrail.explain.illustrate.words import Words

FRAME = {
    "kicker": Words("A look inside a Vision Transformer", "透视 Vision Transformer"),
    "title": Words("From pixels to “{label}”", "从像素到“{label}”"),
    "deck": Words(
        "Shown {file}, the model answers {answer} and gives it {chance}. Here is the whole way from the one to the "
        "other, in the order of the paper, on this very image. No number here is an illustration: each was computed "
        "by this model from this image.",
        "看到 {file}，模型回答 {answer}，并给出 {chance} 的概率。下面按照论文的顺序，在这张图像上走完从前者到后者的全"
        "部过程。这里没有一个数字是示意：每一个都由这个模型从这张图像算出。",
    ),
    "deck.other": Words(
        "Explained below is {label}, which the model gives {chance}.",
        "下文解释的类别是 {label}，模型给它的概率为 {chance}。",
    ),
    "steps": Words("The eight steps", "八个步骤"),
    "language": Words("Language", "语言"),
    "theme": Words("Appearance", "外观"),
    "theme.auto": Words("as the system", "跟随系统"),
    "theme.light": Words("light", "浅色"),
    "theme.dark": Words("dark", "深色"),
    "skip": Words("Skip to the first step", "跳到第一步"),
    "model": Words("The model", "模型"),
    "facts.image": Words("image", "图像"),
    "facts.image.gloss": Words("pixels, rows × columns", "像素，行 × 列"),
    "facts.tokens": Words("tokens", "标记数"),
    "facts.tokens.gloss": Words("{patches} patches and {prefix} more", "{patches} 个图像块，另有 {prefix} 个"),
    "facts.tokens.bare": Words("the patches alone", "只有图像块"),
    "facts.width": Words("width", "宽度"),
    "facts.width.gloss": Words("numbers a token", "每个标记的数值个数"),
    "facts.blocks": Words("encoder blocks", "编码器块"),
    "facts.blocks.gloss": Words("with {heads} heads each", "每块 {heads} 个头"),
    "facts.parameters": Words("parameters", "参数"),
    "facts.parameters.gloss": Words("learned numbers in all", "学到的数值总数"),
    "answer": Words("What it answers", "它的回答"),
    "answer.class": Words("class", "类别"),
    "answer.chance": Words("probability", "概率"),
    "answer.logit": Words("logit", "逻辑值"),
    "answer.note": Words(
        "The {count} most probable of {classes} classes. The logit is what the head computes; the softmax over all "
        "logits makes probabilities of them.",
        "{classes} 个类别中概率最高的 {count} 个。头部算出的是逻辑值；对全部逻辑值取 softmax 得到概率。",
    ),
    "table": Words("The numbers as a table", "数值表"),
    "row": Words("row", "行"),
    "column": Words("column", "列"),
    "rc": Words("row {row}, column {column}", "第 {row} 行第 {column} 列"),
    "patch.at": Words("the patch in row {row}, column {column}", "第 {row} 行第 {column} 列的图像块"),
    "token.class": Words("class token", "分类标记"),
    "token.distillation": Words("distillation token", "蒸馏标记"),
    "token.register": Words("register {number}", "寄存器标记 {number}"),
    "choose": Words(
        "Point at a patch to preview it; click it, or move with the arrow keys, to choose it on the whole page.",
        "将指针移到图像块上即可预览；单击或用方向键移动，即可在整页中选定它。",
    ),
    "choose.print": Words("The patch chosen on this page is framed.", "本页选定的图像块带有边框。"),
    "picker": Words("Choose a patch of the image", "选择一个图像块"),
    "chosen": Words("Chosen: {place}", "已选：{place}"),
    "red": Words("red", "红"),
    "green": Words("green", "绿"),
    "blue": Words("blue", "蓝"),
    "sum": Words("sum", "总和"),
    "others": Words("all others", "其余全部"),
    "end.title": Words("How this page was made", "本页如何生成"),
    "end.how": Words(
        "One forward pass of {model} over {file}, by vitrail {version} with torch {torch}. Attention is carried to a "
        "hundredth of a percent and similarities to a hundredth, which is how they are printed; everything else is "
        "rounded only where it is printed. The page needs nothing but itself: no network, and scripts only for "
        "pointing and choosing.",
        "由 vitrail {version}（torch {torch}）对 {file} 运行 {model} 的一次前向计算生成。注意力保留到百分之一个百分点"
        "，相似度保留到百分之一，与显示的精度一致；其余数值只在显示时取整。本页不依赖任何外部内容：不联网，脚本只用于"
        "悬停和选择。",
    ),
    "end.paper": Words(
        "The order and the equations are those of Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for "
        "Image Recognition at Scale, ICLR 2021.",
        "顺序与公式出自 Dosovitskiy 等人的论文 An Image is Worth 16x16 Words: Transformers for Image Recognition at "
        "Scale，ICLR 2021。",
    ),
}
