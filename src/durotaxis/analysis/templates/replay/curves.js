// Curves over the steps of an episode, each panel with a cursor at the step that is shown.

const SOLID = "", DASHED = "7 4", DOTTED = "1 4", DASH_DOT = "8 4 1 4";
const WIDE = 1000, HIGH = 100; // of a drawing, which is stretched to its place

/** An element with attributes and children, texts among them. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A short line as it is drawn, or a square where bands are. */
function swatch(colour, dash, isBand) {
  const size = isBand ? { viewBox: "0 0 12 12", width: 12 } : { viewBox: "0 0 24 12", width: 24 };
  const line = { d: isBand ? "M0 6h12" : "M1 6h22", stroke: colour, "stroke-width": isBand ? 12 : 2.5 };
  return make("svg", { ...size, height: 12, class: "swatch", "aria-hidden": "true" },
    make("path", { ...line, "stroke-dasharray": dash }));
}

/**
 * One panel. A group of `groups` is {name, colour, lines: [{values, dash, stays}], isShown}: what is named
 * and switched as one. A line that `stays` keeps its last value beyond its end. With `stacked` the groups are shares, drawn as bands from below.
 */
class Panel {
  constructor({ title, groups, length, stacked = false, fromZero = false, switches = false, digits = 2 }) {
    Object.assign(this, { groups, length, stacked, fromZero, switches, digits });
    this.svg = make("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.cursor = make("div", { class: "cursor" });
    this.ticks = make("div", { class: "ticks", "aria-hidden": "true" });
    this.plot = make("div", { class: "plot" }, this.ticks, this.svg, this.cursor);
    const names = groups.map(group => group.name).filter(Boolean).join(", ");
    this.plot.setAttribute("role", "img");
    this.plot.setAttribute("aria-label", `${title} over the steps${names ? `: ${names}` : ""}`);
    this.outputs = [];
    const key = make("ul", { class: switches ? "key switches" : "key" }, ...groups.map(group => this.#entry(group)));
    const steps = make("div", { class: "steps", "aria-hidden": "true" }, ...niceTicks(0, length, 5).map(step =>
      make("span", { style: `left: ${100 * step / length}%` }, String(step))));
    this.head = make("div", { class: "head" }, make("h3", {}, title), ...(switches ? [] : [key]));
    this.element = make("section", { class: "panel" }, this.head,
      make("div", { class: "graph" }, this.plot, steps), ...(switches ? [key] : []));
    this.draw();
  }

  /** Call `jump(step)` for every click, and while a pressed pointer moves. */
  onJump(jump) {
    const go = event => {
      const box = this.plot.getBoundingClientRect();
      jump(Math.round(this.length * (event.clientX - box.left) / box.width));
    };
    this.plot.addEventListener("pointerdown", event => {
      this.plot.setPointerCapture(event.pointerId);
      go(event);
    });
    this.plot.addEventListener("pointermove", event => {
      if (this.plot.hasPointerCapture(event.pointerId)) go(event);
    });
  }

  draw() {
    const [low, high] = this.#range();
    const y = value => HIGH * (high - value) / (high - low);
    const x = step => WIDE * step / this.length;
    const marks = this.stacked ? [0, 0.5, 1] : niceTicks(low, high, this.switches ? 5 : 4);
    const grid = marks.map(value =>
      make("line", { x1: 0, x2: WIDE, y1: y(value), y2: y(value), class: value === 0 ? "zero" : "" }));
    const most = Math.max(0, ...marks.map(mark => (String(mark).split(".")[1] ?? "").length));
    this.ticks.replaceChildren(...marks.map(value =>
      make("span", { style: `top: ${y(value)}%` }, shown(value, most))));
    this.svg.replaceChildren(...(this.stacked ? this.#bands(x, y) : []), ...grid,
      ...(this.stacked ? [] : this.#lines(x, y)));
  }

  /** Move the cursor and say the numbers there. */
  show(step) {
    this.cursor.style.left = `${100 * step / this.length}%`;
    for (const { output, lines } of this.outputs) {
      const said = lines.map(({ values, stays }) => {
        const value = values[stays ? Math.min(step, values.length - 1) : step];
        return value === undefined ? "–" : shown(value, this.digits);
      });
      output.replaceChildren(...said.map(text => make("span", {}, text)));
    }
  }

  #entry(group) {
    const output = make("output", {});
    this.outputs.push({ output, lines: group.lines });
    const sign = group.name ? [swatch(group.colour, group.lines[0].dash, this.stacked), make("span", {}, group.name)] : [];
    if (!this.switches) return make("li", {}, ...sign, output);
    const box = make("input", { type: "checkbox", ...(group.isShown ? { checked: "" } : {}) });
    box.addEventListener("change", () => {
      group.isShown = box.checked;
      this.draw();
    });
    const isZero = group.lines.every(({ values }) => values.every(value => value === 0));
    return make("li", isZero ? { class: "idle" } : {}, make("label", {}, box, ...sign, output));
  }

  #range() {
    if (this.stacked) return [0, 1];
    const drawn = this.groups.filter(group => group.isShown).flatMap(group => group.lines);
    let [low, high] = rangeOf(drawn.map(({ values }) => values));
    if (this.fromZero) [low, high] = [Math.min(0, low), Math.max(0, high)];
    const room = 0.06 * (high - low) || 0.5;
    return [this.fromZero && low === 0 ? 0 : low - room, this.fromZero && high === 0 ? 0 : high + room];
  }

  #lines(x, y) {
    return this.groups.filter(group => group.isShown).flatMap(group => group.lines.map(({ values, dash }) => {
      const d = Array.from(values, (value, t) => `${t ? "L" : "M"}${x(t).toFixed(1)} ${y(value).toFixed(2)}`).join("");
      return make("path", { d, stroke: group.colour, "stroke-dasharray": dash, class: group.isMain ? "main" : "" });
    })).reverse();
  }

  #bands(x, y) {
    const steps = this.groups[0].lines[0].values.length;
    let below = new Float32Array(steps);
    return this.groups.map(({ colour, lines: [{ values }] }) => {
      const above = below.map((sum, t) => sum + values[t]);
      const side = sums => Array.from(sums, (sum, t) => `${x(t).toFixed(1)} ${y(sum).toFixed(2)}`);
      const d = `M${[...side(above), ...side(below).reverse()].join("L")}Z`;
      below = above;
      return make("path", { d, fill: colour, class: "band" });
    });
  }
}

const agentDash = e => (e ? DASHED : SOLID);
const agentColour = (e, { categories }) => categories[e ? 5 : 0];

/** All panels of the page. */
function makePanels(episodes, colours) {
  const length = Math.max(...episodes.map(episode => episode.length));
  const pair = episodes.length > 1;
  const categories = colours.categories.map(css);
  const perAgent = (title, values, options) => {
    const groups = episodes.map((episode, e) => ({ e, values: values(episode), name: pair ? episode.name : "" }))
      .filter(group => group.values)
      .map(({ e, values, name }) => ({ name, isShown: true, colour: pair ? css(agentColour(e, colours)) : "var(--curve)",
        lines: [{ values, dash: agentDash(e), stays: values.length > episodes[e].length }] }));
    return groups.length ? [new Panel({ title, groups, length, ...options })] : [];
  };
  const attention = episodes.flatMap(episode => episode.ptms.length ? [new Panel({
    title: pair ? `attention, ${episode.name}` : "attention", length, stacked: true,
    groups: episode.ptms.map((name, k) => ({
      name, colour: categories[k % categories.length], lines: [{ values: episode.meanAttention[k], dash: SOLID }],
    })),
  })] : []);
  return [
    ...makeRewards(episodes, length, categories),
    ...attention,
    ...perAgent("nodes", episode => episode.counts, { fromZero: true, digits: 0 }),
    ...perAgent("value", episode => episode.columns.value),
    ...perAgent("entropy (nat per node)", episode => episode.columns.entropy),
  ];
}

const AT_FIRST = 4; // terms that are drawn before anyone chooses
const COLOURS = 6; // without the grey

/** The reward and its terms, summed up to the step or of each step. */
function makeRewards(episodes, length, categories) {
  const weight = term => episodes.reduce((sum, { columns }) =>
    sum + (columns[`term/${term}`] ?? []).reduce((all, value) => all + Math.abs(value), 0), 0);
  const terms = [...new Set(episodes.flatMap(episode => episode.terms))]
    .map(name => ({ name, weight: weight(name) })).sort((a, b) => b.weight - a.weight);
  const shares = terms.map(({ name, weight }, i) => ({ name: name.replaceAll("_", " "), column: `term/${name}`,
    colour: categories[i % COLOURS], isLater: i >= COLOURS, isShown: weight > 0 && i < AT_FIRST }));
  const named = [{ name: "reward", column: "reward", colour: "var(--curve)", isMain: true, isShown: true }, ...shares];
  const dashes = isLater => isLater ? [DOTTED, DASH_DOT] : [SOLID, DASHED];
  const groups = named.map(({ column, isLater, ...group }) => ({ ...group, lines: episodes.map((episode, e) =>
    ({ dash: dashes(isLater)[e], each: episode.columns[column] ?? new Float32Array(episode.length) })) }));
  const choose = how => groups.flatMap(group => group.lines).forEach(line => {
    line.stays = how === "summed";
    line.values = line.stays ? sumsBefore(line.each) : line.each;
  });
  choose("summed");
  const panel = new Panel({ title: "reward", groups, length, fromZero: true, switches: true, digits: 3 });
  const how = make("select", { "aria-label": "reward shown" }, make("option", { value: "summed" }, "summed up to the step"),
    make("option", { value: "each" }, "of each step"));
  how.addEventListener("change", () => {
    choose(how.value);
    panel.draw();
    panel.element.dispatchEvent(new Event("redrawn"));
  });
  panel.head.append(how);
  if (episodes.length > 1) panel.head.append(make("ul", { class: "key" }, ...episodes.map((episode, e) =>
    make("li", {}, swatch("var(--curve)", agentDash(e)), episode.name))));
  panel.element.classList.add("broad");
  return [panel];
}

/** What was earned before each step, and at the end. */
function sumsBefore(values) {
  const sums = new Float32Array(values.length + 1);
  values.forEach((value, t) => { sums[t + 1] = sums[t] + value; });
  return sums;
}
