// @ts-check
// Pointing and choosing. Whatever is printed or drawn here is an entry of the arrays that the page carries, in the same
// formats and colours in which the page was written; without this script the page shows its first choice.
"use strict";
(() => {
  /** @typedef {{shape: number[], data: Float32Array | Uint8Array | Int8Array | Uint16Array, unit: number}} Tensor */
  /** @typedef {Record<string, number>} Variables */
  const page = JSON.parse(/** @type {HTMLElement} */ (document.getElementById("tensors")).textContent || "");
  const { config, words, limits, queries } = page;
  const [rows, columns] = config.grid;
  const patches = rows * columns;
  const TOP = 5;
  const state = { ...page.state };

  // ---- numbers

  /** @param {string} text */
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  /** @param {{type: string, shape: number[], data: string, large?: string}} coded @returns {Tensor} */
  function decode(coded) {
    const raw = bytes(coded.data);
    if (coded.type === "f4") return { shape: coded.shape, data: new Float32Array(raw.buffer), unit: 1 };
    if (coded.type === "i1") return { shape: coded.shape, data: new Int8Array(raw.buffer), unit: 100 };
    if (coded.type === "u1") return { shape: coded.shape, data: raw, unit: 1 };
    const large = new Uint16Array(bytes(coded.large || "").buffer);
    const data = new Uint16Array(raw.length);
    let next = 0;
    for (let i = 0; i < raw.length; i++) data[i] = raw[i] < 255 ? raw[i] : large[next++];
    return { shape: coded.shape, data, unit: 10000 };
  }

  /** @type {Record<string, Tensor>} */
  const tensors = Object.fromEntries(Object.entries(page.arrays).map(([name, coded]) => [name, decode(/** @type {any} */ (coded))]));

  /** @param {Tensor} tensor @param {number[]} place */
  const offset = (tensor, place) => place.reduce((sum, i, axis) => sum * tensor.shape[axis] + i, 0);

  /** @param {string} name @param {number[]} place */
  function entry(name, place) {
    const tensor = tensors[name];
    return tensor.data[offset(tensor, place)] / tensor.unit;
  }

  const [channels, height, width] = config.kernel;
  /** What lies in a patch: a normalised pixel, or a feature. @param {number} patch @param {number} place */
  function input(patch, place) {
    if (config.stem) return entry("terms.input", [patch, place]);
    const c = Math.floor(place / (height * width));
    const y = Math.floor(patch / columns) * height + (Math.floor(place / width) % height);
    const x = (patch % columns) * width + (place % width);
    return entry("levels", [c, entry("pixels", [c, y, x])]);
  }
  /** @param {number} patch @param {number} filter @param {number} place */
  const product = (patch, filter, place) => input(patch, place) * entry("terms.weight", [filter, place]);
  /** @param {number} patch @param {number} filter */
  const products = (patch, filter) => Array.from({ length: channels * height * width }, (_, i) => product(patch, filter, i));

  /** The number at a path. @param {string} path */
  function at(path) {
    const [, name, inside] = /** @type {RegExpMatchArray} */ (path.match(/^([\w.]+)\[([\d,]+)\]$/));
    const place = inside.split(",").map(Number);
    const block = name.match(/^blocks\.(\d+)\.(\w+)$/);
    if (block) return entry(`blocks.${block[2]}`, [Number(block[1]), place[0], queries.indexOf(place[1]), ...place.slice(2)]);
    if (name === "terms.input") return input(place[0], place[1]);
    if (name === "terms.product") return product(place[0], place[1], place[2]);
    if (name === "terms.others") {
      const all = products(place[0], place[1]);
      const largest = new Set(top(all.map(Math.abs), termCount));
      return all.reduce((sum, value, i) => (largest.has(i) ? sum : sum + value), 0);
    }
    return entry(name, place);
  }

  /** As numbers.py prints it. @param {number} value @param {string} form */
  function text(value, form) {
    const digits = Number(form.slice(1) || 0);
    /** @param {string} plain */
    const signed = (plain) => (plain[0] !== "-" ? plain : /[1-9]/.test(plain) ? `\u2212${plain.slice(1)}` : plain.slice(1));
    if (form[0] === "i") return signed(Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f"));
    if (form[0] === "p") return `${signed((100 * value).toFixed(digits))}\u202f%`;
    if (form[0] === "e") {
      const [size, power] = value.toExponential(digits).split("e");
      const raised = String(Number(power)).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)]));
      return value === 0 ? "0" : signed(size) + (Number(power) ? `\u202f×\u202f10${raised}` : "");
    }
    const plain = signed(value.toFixed(digits));
    return form[0] === "f" || plain[0] === "\u2212" || value === 0 ? plain : `+${plain}`;
  }

  /** Places of the largest values, the largest first. @param {ArrayLike<number>} values @param {number} count */
  function top(values, count) {
    /** @type {number[]} */
    const best = [];
    for (let i = 0; i < values.length; i++) {
      if (best.length === count && values[i] <= values[best[count - 1]]) continue;
      let rank = best.length;
      while (rank > 0 && values[i] > values[best[rank - 1]]) rank--;
      best.splice(rank, 0, i);
      if (best.length > count) best.pop();
    }
    return best;
  }

  /** A query's row of attention, in ten thousandths. @param {number} block @param {number} head @param {number} query */
  function looks(block, head, query) {
    const tensor = tensors["blocks.attention"];
    const start = offset(tensor, [block, head, queries.indexOf(query), 0]);
    return tensor.data.subarray(start, start + config.tokens);
  }

  // ---- what is chosen

  const binds = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-bind]")]);
  const termCount = new Set(binds.flatMap((node) => (node.dataset.bind || "").match(/\{term\d+\}/g) || [])).size;

  /** The token nearest to `token` whose attention the page carries. @param {number} token */
  function nearestQuery(token) {
    if (queries.includes(token)) return token;
    const [y, x] = [Math.floor((token - config.prefix) / columns), (token - config.prefix) % columns];
    /** @param {number} other */
    const far = (other) => (Math.floor((other - config.prefix) / columns) - y) ** 2 + (((other - config.prefix) % columns) - x) ** 2;
    return queries.filter((/** @type {number} */ q) => q >= config.prefix).reduce((/** @type {number} */ a, /** @type {number} */ b) => (far(b) < far(a) ? b : a));
  }

  /** All variables of the binds, as state.py has them. @param {typeof state} chosen @returns {Variables} */
  function variables(chosen) {
    const { patch, query, block, head, filter } = chosen;
    const row = Math.floor(patch / columns);
    const column = patch % columns;
    /** @type {Variables} */
    const found = { patch, query, block, head, filter, row, column, token: config.prefix + patch, dimension: page.dimensions[filter] };
    found.top = row * config.patch[0];
    found.left = column * config.patch[1];
    top(looks(block, head, query), TOP).forEach((token, rank) => (found[`key${rank}`] = token));
    for (let l = 0; l < config.depth; l++) for (let h = 0; h < config.heads; h++) found[`best${l}_${h}`] = top(looks(l, h, query), 1)[0];
    top(products(patch, filter).map(Math.abs), termCount).forEach((place, rank) => (found[`term${rank}`] = place));
    if (tensors.similarity) {
      const near = Array.from({ length: patches }, (_, other) => (other === patch ? -2 : entry("similarity", [patch, other])));
      top(near, Math.min(TOP, patches - 1)).forEach((place, rank) => (found[`near${rank}`] = place));
    }
    return found;
  }

  /** @param {string} bind @param {Variables} now */
  const resolved = (bind, now) =>
    bind.replace(/\{(\w+)\}/g, (_, name) => String(now[name])).replace(/\d+(\+\d+)+/g, (sum) => String(sum.split("+").reduce((a, b) => a + Number(b), 0)));

  /** @param {string} path @param {string} form */
  function number(path, form) {
    const node = document.createElement("data");
    node.dataset.path = path;
    node.dataset.form = form;
    node.textContent = text(at(path), form);
    return node;
  }

  /** A text in both languages. @param {string} key @param {Record<string, () => Node>} [values] */
  function say(key, values = {}) {
    const both = document.createDocumentFragment();
    ["en", "zh"].forEach((language, i) => {
      const span = document.createElement("span");
      span.lang = language;
      for (const part of words[key][i].split(/(\{\w+\})/)) {
        const name = part.match(/^\{(\w+)\}$/);
        span.append(name ? values[name[1]]() : part);
      }
      both.append(span);
    });
    return both;
  }

  /** What a token is called. @param {number} token */
  function tokenName(token) {
    if (token < config.prefix) {
      const [key, count] = page.prefix[token];
      return say(key, { number: () => number(`registers.number[${count - 1}]`, "i") });
    }
    const place = token - config.prefix;
    return say("patch.at", { row: () => number(`places.row[${place}]`, "i"), column: () => number(`places.column[${place}]`, "i") });
  }

  const language = () => (/** @type {HTMLInputElement} */ (document.getElementById("lang-zh")).checked ? 1 : 0);

  /** The words of a node in the page's language, for a label. @param {Node} node */
  function spoken(node) {
    const copy = document.createElement("div");
    copy.append(node.cloneNode(true));
    copy.querySelectorAll(language() ? '[lang="en"]' : '[lang="zh"]').forEach((other) => other.remove());
    return (copy.textContent || "").trim();
  }

  // ---- pictures

  /** @param {HTMLCanvasElement} canvas @param {number} wide @param {number} high @param {(i: number) => ArrayLike<number>} pixel */
  function paint(canvas, wide, high, pixel) {
    if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
    const image = new ImageData(wide, high);
    for (let i = 0; i < wide * high; i++) {
      const colour = pixel(i);
      image.data.set(colour, 4 * i);
      image.data[4 * i + 3] = colour.length ? 255 : 0;
    }
    /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(image, 0, 0);
  }

  /** @param {string} table @param {number} level from 0 to 1 */
  function colour(table, level) {
    const step = Math.round(255 * Math.min(1, Math.max(0, level)));
    return tensors[table].data.subarray(3 * step, 3 * step + 3);
  }
  /** @param {number} value @param {number} limit */
  const diverging = (value, limit) => colour("blue_orange", (value + limit) / (2 * limit));
  /** @param {number} units of attention */
  const level = (units) => Math.min(1, Math.sqrt((units / 10000) * config.tokens) / config.root);

  /** @param {HTMLCanvasElement} canvas @param {ArrayLike<number>} values @param {number} limit */
  function folded(canvas, values, limit) {
    const side = Math.ceil(Math.sqrt(values.length));
    paint(canvas, side, Math.ceil(values.length / side), (i) => diverging(i < values.length ? values[i] : 0, limit));
  }

  /** @param {HTMLCanvasElement} canvas @param {Variables} now @param {(c: number) => boolean} shown */
  function patchPixels(canvas, now, shown) {
    const [high, wide] = config.patch;
    paint(canvas, wide, high, (i) => [0, 1, 2].map((c) => (shown(c) ? entry("pixels", [c, now.top + Math.floor(i / wide), now.left + (i % wide)]) : 0)));
  }

  /** @type {Record<string, (canvas: HTMLCanvasElement, now: Variables) => void>} */
  const drawings = {
    patch: (canvas, now) => patchPixels(canvas, now, () => true),
    plane0: (canvas, now) => patchPixels(canvas, now, (c) => c === 0),
    plane1: (canvas, now) => patchPixels(canvas, now, (c) => c === 1),
    plane2: (canvas, now) => patchPixels(canvas, now, (c) => c === 2),
    input: (canvas, now) =>
      config.stem ? folded(canvas, Array.from({ length: channels * height * width }, (_, i) => input(now.patch, i)), limits.input) : drawings.patch(canvas, now),
    weights: (canvas, now) => weights(canvas, now.filter),
    products: (canvas, now) => {
      const all = products(now.patch, now.filter);
      if (config.stem) return folded(canvas, all, limits.product);
      const area = height * width;
      return paint(canvas, width, height, (i) => diverging(all[i] + all[i + area] + all[i + 2 * area], limits.product));
    },
    vector: (canvas, now) => {
      const count = tensors.patches.shape[1];
      const wide = Math.min(config.columns, count);
      paint(canvas, wide, Math.ceil(count / wide), (i) => (i < count ? diverging(entry("patches", [now.patch, i]), limits.vector) : []));
    },
    similarity: (canvas, now) => paint(canvas, columns, rows, (i) => diverging(entry("similarity", [now.patch, i]), 1)),
    revealed: (canvas, now) => {
      const [high, wide] = config.size;
      const row = looks(now.block, now.head, now.query);
      const bright = Array.from({ length: patches }, (_, p) => config.dim + (1 - config.dim) * level(row[config.prefix + p]));
      const area = high * wide;
      paint(canvas, wide, high, (i) => {
        const [y, x] = [Math.floor(i / wide / config.patch[0]), Math.floor((i % wide) / config.patch[1])];
        const share = y < rows && x < columns ? bright[y * columns + x] : config.dim;
        return [0, 1, 2].map((c) => Math.round(tensors.pixels.data[c * area + i] * share));
      });
    },
  };

  /** @param {HTMLCanvasElement} canvas @param {number} filter */
  function weights(canvas, filter) {
    const size = channels * height * width;
    const values = tensors["terms.weight"].data.subarray(filter * size, (filter + 1) * size);
    if (config.stem) return folded(canvas, values, limits.filter);
    const area = height * width;
    return paint(canvas, width, height, (i) => [0, 1, 2].map((c) => Math.round(Math.min(1, Math.max(-1, values[c * area + i] / limits.filter)) * 127.5 + 127.5)));
  }

  /** @param {HTMLCanvasElement} canvas @param {number} block @param {number} head @param {number} query */
  function headMap(canvas, block, head, query) {
    const row = looks(block, head, query);
    const beside = config.prefixColumns;
    paint(canvas, columns + beside, rows, (i) => {
      const token = tokenAt(i % (columns + beside), Math.floor(i / (columns + beside)));
      return token < 0 ? [] : colour("viridis", level(row[token]));
    });
  }

  /** The token at a place of a head's map, -1 where there is none. @param {number} x @param {number} y */
  function tokenAt(x, y) {
    const beside = config.prefixColumns;
    if (x >= beside) return config.prefix + y * columns + x - beside;
    const token = x * rows + y;
    return x < beside - 1 && token < config.prefix ? token : -1;
  }

  /** A canvas in an image's place. @param {HTMLImageElement} image */
  function canvasFor(image) {
    const canvas = document.createElement("canvas");
    canvas.className = image.className;
    canvas.setAttribute("aria-hidden", "true");
    if (image.dataset.draw) canvas.dataset.draw = image.dataset.draw;
    image.replaceWith(canvas);
    return canvas;
  }

  // ---- the page follows

  const drawn = [...document.querySelectorAll("img[data-draw]")].map((image) => canvasFor(/** @type {HTMLImageElement} */ (image)));
  const named = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-token]")]);
  const colours = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-colour]")]);
  const frames = /** @type {SVGElement[]} */ ([...document.querySelectorAll("[data-frame]")]);
  const readout = /** @type {HTMLElement} */ (document.querySelector("[data-readout]"));
  const live = /** @type {HTMLElement} */ (document.querySelector("[data-live]"));

  /** Print and draw `chosen` in a part of the page. @param {Element} part @param {typeof state} chosen */
  function show(part, chosen) {
    const now = variables(chosen);
    for (const node of binds) {
      if (!part.contains(node)) continue;
      const path = resolved(node.dataset.bind || "", now);
      if (node.dataset.path === path) continue;
      node.dataset.path = path;
      node.textContent = text(at(path), node.dataset.form || "");
    }
    for (const node of named) if (part.contains(node)) node.replaceChildren(tokenName(now[node.dataset.token || ""]));
    for (const node of colours) if (part.contains(node)) node.replaceChildren(say(["red", "green", "blue"][Math.floor(now[`term${node.dataset.colour}`] / (height * width))]));
    for (const canvas of drawn) if (part.contains(canvas)) drawings[canvas.dataset.draw || ""](canvas, now);
    for (const node of frames) if (part.contains(node)) frame(node, node.dataset.frame === "query" ? now.query - config.prefix : now.patch);
    if (part.contains(heads)) {
      drawHeads(chosen);
      readout.replaceChildren(sentence(chosen.block, chosen.head, chosen.query, now.key0));
    }
  }

  /** @param {SVGElement} node @param {number} patch */
  function frame(node, patch) {
    node.toggleAttribute("hidden", patch < 0);
    node.style.display = patch < 0 ? "none" : "";
    node.setAttribute("x", String((patch % columns) * config.patch[1]));
    node.setAttribute("y", String(Math.floor(patch / columns) * config.patch[0]));
  }

  /** @param {Partial<typeof state>} changes */
  function choose(changes) {
    Object.assign(state, changes);
    show(document.body, state);
    mark();
    if ("query" in changes || "block" in changes) announce(spoken(readout));
  }
  /** @param {number} patch */
  const chosenPatch = (patch) => ({ patch, query: nearestQuery(config.prefix + patch) });

  let said = 0;
  /** @type {number | undefined} */
  let waiting;
  /** To a screen reader, once a second at most. @param {string} sentence */
  function announce(sentence) {
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => {
      said = Date.now();
      live.textContent = sentence;
    }, Math.max(0, said + 1000 - Date.now()));
  }

  /** How much one token takes from another. @param {number} block @param {number} head @param {number} query @param {number} key */
  const sentence = (block, head, query, key) =>
    say("heads.says", {
      block: () => number(`blocks.number[${block + 1}]`, "i"),
      head: () => number(`heads.number[${head}]`, "i"),
      query: () => tokenName(query),
      token: () => tokenName(key),
      share: () => number(`blocks.${block}.attention[${head},${query},${key}]`, "p2"),
    });

  /** @param {number} block @param {number} head @param {number} key */
  function tell(block, head, key) {
    const words = sentence(block, head, state.query, key);
    announce(spoken(words));
    readout.replaceChildren(words);
  }

  // ---- widgets

  const heads = /** @type {HTMLElement} */ (document.querySelector("[data-heads]"));
  const headButtons = [...heads.querySelectorAll(".head")].map((cell) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = cell.className;
    const [block, head] = [Number(/** @type {HTMLElement} */ (cell).dataset.block), Number(/** @type {HTMLElement} */ (cell).dataset.head)];
    button.append(...cell.childNodes);
    cell.replaceWith(button);
    const canvas = canvasFor(/** @type {HTMLImageElement} */ (button.querySelector("img")));
    button.addEventListener("click", () => choose({ block, head }));
    button.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const [x, y] = [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height].map(Math.floor);
      const token = x < 0 || y < 0 || x >= canvas.width || y >= canvas.height ? -1 : tokenAt(x, y);
      if (token >= 0) tell(block, head, token);
    });
    return { button, canvas, block, head };
  });
  /** @param {typeof state} chosen */
  function drawHeads(chosen) {
    for (const { canvas, block, head } of headButtons) headMap(canvas, block, head, chosen.query);
  }

  const filterButtons = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[data-filter]")]).map((cell, filter) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = cell.className;
    button.append(...cell.childNodes);
    cell.replaceWith(button);
    button.addEventListener("click", () => choose({ filter }));
    return button;
  });

  /** @typedef {{name: string, cells: HTMLElement[], chosen: () => number}} Grid */
  /** @type {Grid[]} */
  const grids = [];
  /** Cells over an image that pointer and keyboard reach. @param {HTMLElement} over @param {string} name
   * @param {{point: (patch: number) => void, leave: () => void, pick: (patch: number) => void, chosen: () => number}} does */
  function grid(over, name, does) {
    const whole = document.createElement("div");
    whole.className = "cells";
    whole.setAttribute("role", "grid");
    whole.dataset.label = name;
    whole.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
    whole.style.gridTemplateRows = `repeat(${rows}, 1fr)`;
    whole.style.height = `${(100 * rows * config.patch[0]) / config.size[0]}%`;
    whole.style.width = `${(100 * columns * config.patch[1]) / config.size[1]}%`;
    /** @type {HTMLElement[]} */
    const cells = [];
    for (let y = 0; y < rows; y++) {
      const line = document.createElement("div");
      line.setAttribute("role", "row");
      for (let x = 0; x < columns; x++) {
        const cell = document.createElement("div");
        cell.setAttribute("role", "gridcell");
        cell.tabIndex = -1;
        cells.push(cell);
        line.append(cell);
      }
      whole.append(line);
    }
    /** @param {Event} event */
    const place = (event) => cells.indexOf(/** @type {HTMLElement} */ (event.target));
    whole.addEventListener("pointerover", (event) => place(event) >= 0 && event.pointerType !== "touch" && does.point(place(event)));
    whole.addEventListener("pointerleave", does.leave);
    whole.addEventListener("click", (event) => place(event) >= 0 && does.pick(place(event)));
    whole.addEventListener("keydown", (event) => {
      const here = place(event);
      const [y, x] = [Math.floor(here / columns), here % columns];
      /** @type {Record<string, number>} */
      const moves = {
        ArrowLeft: Math.max(0, x - 1) + y * columns,
        ArrowRight: Math.min(columns - 1, x + 1) + y * columns,
        ArrowUp: x + Math.max(0, y - 1) * columns,
        ArrowDown: x + Math.min(rows - 1, y + 1) * columns,
        Home: y * columns,
        End: (y + 1) * columns - 1,
        Enter: here,
        " ": here,
      };
      if (here < 0 || !(event.key in moves)) return;
      event.preventDefault();
      does.pick(moves[event.key]);
      cells[moves[event.key]].focus();
    });
    over.append(whole);
    grids.push({ name, cells, chosen: does.chosen });
  }

  for (const over of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-picker]"))) {
    const part = /** @type {Element} */ (over.closest("section"));
    grid(over, over.dataset.picker === "query" ? "heads.query" : "picker", {
      point: (patch) => show(part, { ...state, ...chosenPatch(patch) }),
      leave: () => show(part, state),
      pick: (patch) => choose(chosenPatch(patch)),
      chosen: () => state.patch,
    });
  }

  const keys = /** @type {HTMLElement} */ (document.querySelector("[data-keys]"));
  let pointed = state.patch;
  /** @param {number} patch */
  function point(patch) {
    pointed = patch;
    tell(state.block, state.head, config.prefix + patch);
    mark();
  }
  grid(keys, "heads.keys", { point, leave: () => undefined, pick: point, chosen: () => pointed });

  /** Buttons for the tokens before the patches. @param {Element} after @param {(token: number) => void} does */
  function tokenButtons(after, does) {
    return page.prefix.map((/** @type {unknown} */ _, /** @type {number} */ token) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(tokenName(token));
      button.addEventListener("click", () => does(token));
      after.append(button);
      return button;
    });
  }
  const queryButtons = tokenButtons(/** @type {Element} */ (document.querySelector("[data-tokens]")), (token) =>
    choose({ query: token }),
  );
  tokenButtons(/** @type {Element} */ (document.querySelector("[data-key-tokens]")), (token) => tell(state.block, state.head, token));

  /** What is chosen, for the eye and for a screen reader, in the page's language. */
  function mark() {
    for (const { button, block, head } of headButtons) {
      const on = block === state.block && head === state.head;
      button.classList.toggle("on", on);
      button.setAttribute("aria-pressed", String(on));
      button.setAttribute("aria-label", spoken(say("heads.name", { block: () => document.createTextNode(String(block + 1)), head: () => document.createTextNode(String(head + 1)) })));
    }
    filterButtons.forEach((button, filter) => {
      button.classList.toggle("on", filter === state.filter);
      button.setAttribute("aria-pressed", String(filter === state.filter));
    });
    queryButtons.forEach((/** @type {HTMLElement} */ button, /** @type {number} */ token) => button.setAttribute("aria-pressed", String(token === state.query)));
    for (const { name, cells, chosen } of grids) {
      /** @type {HTMLElement} */ (cells[0].closest('[role="grid"]')).setAttribute("aria-label", words[name][language()]);
      cells.forEach((cell, patch) => {
        cell.tabIndex = patch === chosen() ? 0 : -1;
        cell.setAttribute("aria-selected", String(patch === chosen()));
        cell.setAttribute("aria-label", words.rc[language()].replace("{row}", Math.floor(patch / columns) + 1).replace("{column}", (patch % columns) + 1));
      });
    }
  }

  function speak() {
    document.documentElement.lang = language() ? "zh" : "en";
    document.title = words.title[language()].replace("{label}", page.label);
    mark();
  }
  for (const node of document.querySelectorAll('[name="language"]')) node.addEventListener("change", speak);
  if ((navigator.language || "").startsWith("zh")) /** @type {HTMLInputElement} */ (document.getElementById("lang-zh")).checked = true;

  document.documentElement.classList.add("live");
  for (const [filter, button] of filterButtons.entries()) weights(canvasFor(/** @type {HTMLImageElement} */ (button.querySelector("img"))), filter);
  show(document.body, state);
  speak();
})();
