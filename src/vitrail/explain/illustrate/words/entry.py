"""Steps 1 to 4: from the photo to the tokens that enter the encoder."""

from vitrail.explain.illustrate.words import Words

ENTRY = {
    "image.title": Words("The image that the model sees", "模型看到的图像"),
    "image.lead": Words(
        "The model takes images of one size only. The photo is resized, its shape kept, and the middle is cut out. "
        "Then every colour is shifted and scaled in the way the model was trained with. What lies outside the frame "
        "the model never sees, whatever it answers.",
        "模型只接受一种尺寸的图像。照片先按原有比例缩放，再裁出中间部分；然后每种颜色都按训练时的方式平移和缩放。框外"
        "的内容，无论回答是什么，模型都看不到。",
    ),
    "image.lead.squash": Words(
        "The model takes images of one size only. Both sides of the photo are resized to it, so its shape changes. "
        "Then every colour is shifted and scaled in the way the model was trained with.",
        "模型只接受一种尺寸的图像。照片的两边都缩放到这个尺寸，因此形状会改变。然后每种颜色都按训练时的方式平移和缩放"
        "。",
    ),
    "image.original": Words(
        "The photo, {rows} × {columns} pixels. The model sees what is in the frame: {seen} of the area.",
        "原照片，{rows} × {columns} 像素。模型只看到框内的部分：占面积的 {seen}。",
    ),
    "image.seen": Words(
        "What the model sees: these {rows} × {columns} pixels, and nothing else.",
        "模型看到的：这 {rows} × {columns} 个像素，再无其他。",
    ),
    "image.done": Words("What was done", "做了什么"),
    "image.decoded": Words("decoded", "解码"),
    "image.resized": Words("resized to", "缩放为"),
    "image.cut": Words("middle cut out", "裁出中间"),
    "image.lost": Words("cut off", "裁去面积"),
    "image.pixel": Words(
        "One pixel on its way: row {row}, column {column} of what the model sees",
        "一个像素的历程：模型所见图像的第 {row} 行第 {column} 列",
    ),
    "image.channel": Words("colour", "颜色"),
    "image.stored": Words("stored", "存储值"),
    "image.level": Words("as a share of full", "占满值的比例"),
    "image.mean": Words("mean", "均值"),
    "image.std": Words("standard deviation", "标准差"),
    "image.normal": Words("what the model reads", "模型读取的值"),
    "image.formula": Words("(level − mean) ÷ deviation", "（比例 − 均值）÷ 标准差"),
    "patches.title": Words("Patches instead of words", "图像块代替单词"),
    "patches.lead": Words(
        "A Transformer reads a sequence. The paper makes one of an image by cutting it into squares and reading them "
        "like words, left to right, top to bottom. Nothing tells the model that two patches are neighbours; that it "
        "has to learn.",
        "Transformer 读取的是序列。论文把图像切成方块，像单词一样从左到右、从上到下读取，从而得到序列。没有任何东西告"
        "诉模型哪两个图像块相邻，这要靠它自己学会。",
    ),
    "patches.lead.stem": Words(
        "In this hybrid a convolutional network runs first, and the patches are cut from its feature map. Each of "
        "them stands for the square of pixels that is drawn, though the convolutions also saw what lies around it.",
        "在这个混合模型中，先运行卷积网络，再从其特征图上切出图像块。每个图像块对应图中所画的像素方块，不过卷积也看到"
        "了它周围的内容。",
    ),
    "patches.count": Words(
        "Patches of {rows} × {columns} pixels: {down} down, {across} across, {patches} in all. With {prefix} more in "
        "front of them, the sequence has {tokens} tokens.",
        "每块 {rows} × {columns} 像素：纵向 {down} 块，横向 {across} 块，共 {patches} 块。前面再加 {prefix} 个，序列"
        "共有 {tokens} 个标记。",
    ),
    "patches.count.bare": Words(
        "Patches of {rows} × {columns} pixels: {down} down, {across} across, {patches} in all. They are the whole "
        "sequence.",
        "每块 {rows} × {columns} 像素：纵向 {down} 块，横向 {across} 块，共 {patches} 块，这就是整个序列。",
    ),
    "patches.grid": Words("The image, cut into {patches} patches.", "图像切成 {patches} 个图像块。"),
    "patches.chosen": Words("Patch {number}: {place}, enlarged.", "图像块 {number}：{place}，放大。"),
    "patches.planes": Words("Its red, green and blue.", "它的红、绿、蓝。"),
    "patches.numbers": Words("Its pixels: red, green, blue", "它的像素：红、绿、蓝"),
    "embed.title": Words("One patch becomes a vector", "一个图像块变成向量"),
    "embed.lead": Words(
        "The linear patch embedding turns the {inputs} numbers of a patch into {width}. Each of these is one sum: "
        "every number of the patch times its weight in a learned filter, all added up. It is the only place where the "
        "model touches pixels.",
        "图像块线性嵌入把每个图像块的 {inputs} 个数值变成 {width} 个。其中每一个都是一个和：图像块的每个数值乘以学到"
        "的滤波器中对应的权重，再全部相加。模型只在这里接触像素。",
    ),
    "embed.lead.stem": Words(
        "The linear patch embedding turns the {inputs} features of a patch into {width} numbers. Each of these is one "
        "sum: every feature times its weight in a learned filter, all added up.",
        "图像块线性嵌入把每个图像块的 {inputs} 个特征变成 {width} 个数值。其中每一个都是一个和：每个特征乘以学到的滤"
        "波器中对应的权重，再全部相加。",
    ),
    "embed.filters": Words("Choose one of {count} filters", "从 {count} 个滤波器中选择"),
    "embed.filters.note": Words(
        "Those whose answers differ most from patch to patch. Grey is a weight of zero.",
        "这些滤波器在各图像块上的响应差别最大。灰色表示权重为零。",
    ),
    "embed.filter": Words("filter {number}", "滤波器 {number}"),
    "embed.patch": Words("the patch", "图像块"),
    "embed.product": Words("products, colours added", "乘积（三色相加）"),
    "embed.value": Words("the sum", "和"),
    "embed.terms": Words("The sum, written out: the largest of its terms", "写出这个和：最大的几项"),
    "embed.where": Words("where", "位置"),
    "embed.feature": Words("feature {number}", "特征 {number}"),
    "embed.input": Words("patch", "图像块"),
    "embed.weight": Words("filter", "滤波器"),
    "embed.result": Words("product", "乘积"),
    "embed.rest": Words("the other {count} terms", "其余 {count} 项"),
    "embed.bias": Words("bias", "偏置"),
    "embed.strip": Words(
        "All {width} numbers of this patch, in reading order: blue below zero, orange above.",
        "这个图像块的全部 {width} 个数值，按阅读顺序排列：蓝色小于零，橙色大于零。",
    ),
    "embed.proof": Words(
        "Written out so for every patch and every filter, the sums differ from what the model computed by {error} at "
        "most.",
        "对每个图像块和每个滤波器都这样写出，所得的和与模型算出的值最多相差 {error}。",
    ),
    "position.title": Words("A class token, and a sense of place", "分类标记与位置感"),
    "position.title.patches": Words("A sense of place", "位置感"),
    "position.read": Words(
        "Before the patches comes a token that stands for no part of the image: the class token, from which the "
        "answer will be read.",
        "图像块之前有一个不代表图像任何部分的标记：分类标记，回答将从它读出。",
    ),
    "position.unread": Words(
        "Before the patches comes a token that stands for no part of the image, the class token; the head of this "
        "model reads the patches instead.",
        "图像块之前有一个不代表图像任何部分的标记，即分类标记；不过这个模型的头部读取的是图像块。",
    ),
    "position.patches": Words(
        "This model has no class token: the answer will be read from the patches themselves.",
        "这个模型没有分类标记：回答将从图像块本身读出。",
    ),
    "position.learned": Words(
        "Every patch gets a learned vector added that says where it is, its position embedding.",
        "每个图像块都加上一个学到的、说明其位置的向量，即位置嵌入。",
    ),
    "position.sincos2d": Words(
        "Every patch gets a fixed vector of sines and cosines added that says where it is, its position embedding.",
        "每个图像块都加上一个由正弦和余弦构成的固定向量，说明其位置，即位置嵌入。",
    ),
    "position.rope": Words(
        "It adds no position embedding: inside every block, queries and keys are turned by angles that tell row and "
        "column.",
        "它不加位置嵌入：在每个块内，查询与键按表示行与列的角度旋转。",
    ),
    "position.none": Words(
        "It adds no position embedding, so it cannot know where a patch lies.",
        "它不加位置嵌入，因此无法知道图像块在哪里。",
    ),
    "position.prefix": Words("Before the patches stand: {tokens}.", "图像块之前有：{tokens}。"),
    "position.map": Words(
        "How alike the position embeddings of the chosen patch and of each patch are: the cosine between them.",
        "选定图像块与各图像块的位置嵌入有多相似：两者夹角的余弦。",
    ),
    "position.tiles": Words(
        "The same for every patch: one small map each, at its place in the image (the paper’s figure 7).",
        "每个图像块各一幅小图，放在它在图像中的位置上（论文图 7）。",
    ),
    "position.unit": Words("cosine", "余弦"),
    "position.norms": Words("How long the vectors are", "向量的长度"),
    "position.norm.patch": Words("embedded patch", "嵌入后的图像块"),
    "position.norm.position": Words("position embedding", "位置嵌入"),
    "position.norm.both": Words("what enters the encoder", "进入编码器的标记"),
    "position.nearest": Words("Most alike to the chosen patch", "与选定图像块最相似的"),
    "position.shuffle": Words(
        "Shuffle the patches, and no logit moves by more than {bare} as long as positions are off: without them the "
        "model reads a bag of patches. With positions the same shuffle moves a logit by {full}.",
        "把图像块打乱：关闭位置时，任何逻辑值的变化都不超过 {bare}，没有位置，模型读到的只是一袋图像块；打开位置时，"
        "同样的打乱使逻辑值变化达 {full}。",
    ),
}
