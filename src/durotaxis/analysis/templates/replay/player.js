// The page: one clock, and whatever shows the step it stands at.

const SPEEDS = [1, 2, 5, 10, 20, 50, 100]; // steps per second
const SECONDS = 25; // an episode lasts no longer, unless the reader wants it
const KINDS = ["rest", "spawn", "delete", "–"];

const find = selector => document.querySelector(selector);

/** One colony of the page: its picture and its numbers, its held node and the one pointed at. */
class Agent {
  constructor(element, episode, stage, player) {
    Object.assign(this, { element, episode, stage, player, held: null, pointed: null });
    this.part = selector => element.querySelector(selector);
    const place = this.part(".stage");
    place.addEventListener("pointermove", event => event.pointerType === "mouse" && this.#point(this.#under(event, 12)[0]));
    place.addEventListener("pointerleave", () => this.#point(undefined));
    place.addEventListener("click", event => this.#pick(event));
    place.addEventListener("focus", () => { player.focused = this; });
    new ResizeObserver(() => this.draw()).observe(stage.canvas);
  }

  get row() {
    return this.episode.row(this.player.step);
  }

  draw() {
    this.stage.draw(this.row, this.player, this.pointed ?? this.held);
  }

  show() {
    const { episode, row, player } = this;
    const isOver = row === episode.length;
    const crowd = this.stage.isCrowded(row) ? ", drawn as plain dots" : "";
    const end = isOver ? `ended at step ${episode.length}: ${episode.reason}  ·  ` : "";
    this.part(".state").textContent = `${end}${count(episode.counts[row], "node")}${crowd}`;
    this.element.classList.toggle("over", isOver && player.step > episode.length);
    this.stage.canvas.setAttribute("aria-label", `${episode.name} at step ${row}: ${count(episode.counts[row], "node")}`);
    this.draw();
    this.#showNumbers();
  }

  /** Hold the node that is so many places further in this row. */
  turn(by) {
    const ids = this.episode.nodes(this.row).map(n => this.episode.id[n]);
    if (!ids.length) return;
    const at = ids.indexOf(this.held);
    this.hold(ids[at < 0 ? (by > 0 ? 0 : ids.length - 1) : (at + by + ids.length) % ids.length]);
  }

  hold(id) {
    this.held = id;
    this.pointed = null;
    this.player.focused = this;
    this.show();
    this.player.say(id === null ? "no node held" : this.#described(id));
  }

  #under(event, reach) {
    const box = this.stage.canvas.getBoundingClientRect();
    return this.stage.near(this.row, event.clientX - box.left, event.clientY - box.top, reach);
  }

  #point(n) {
    const id = n === undefined ? null : this.episode.id[n];
    if (id === this.pointed) return;
    this.pointed = id;
    this.draw();
    this.#showNumbers();
  }

  /** A click holds a node; a further one at the same place the next node there, after the last one none. */
  #pick(event) {
    const here = this.#under(event, 16).map(n => this.episode.id[n]).slice(0, 40);
    const near = this.#crowd(here);
    const at = near.indexOf(this.held);
    this.hold(near[at + 1] ?? null);
  }

  /** Of nodes sorted by distance from the pointer, those that cover the first. */
  #crowd(ids) {
    const at = id => this.stage.at(this.episode.find(this.row, id));
    if (!ids.length) return [];
    const [x, y] = at(ids[0]);
    return ids.filter(id => Math.hypot(at(id)[0] - x, at(id)[1] - y) < 5 * this.stage.unit).sort((a, b) => a - b);
  }

  #described(id) {
    const { episode, row } = this, n = episode.find(row, id);
    if (n < 0) return `node ${id} does not live at step ${row}`;
    return `node ${id}, ${KINDS[episode.kind(n)]}, ${shown(episode.stiffness[n], 2)} kPa`;
  }

  #showNumbers() {
    const { episode, row } = this, id = this.pointed ?? this.held;
    const n = id === null ? -1 : episode.find(row, id);
    const lines = id === null ? this.#ofColony() : n < 0 ? this.#ofAbsent(id) : this.#ofNode(n);
    this.part("h3").textContent = id === null ? "Colony" : `Node ${id}`;
    this.part(".facts-of dl").replaceChildren(...lines.map(([name, ...values]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, ...values))));
    this.part(".hint").textContent = id === null ? "Point at a node or press N for its numbers; a click holds it."
      : id === this.pointed && id !== this.held ? "A click holds it." : "Held through its life; Esc lets it go.";
    if (episode.ptms.length) this.#showAttention(id, n);
  }

  #ofColony() {
    const { episode, row } = this, nodes = episode.nodes(row);
    const how = kind => nodes.filter(n => episode.kind(n) === kind).length;
    const front = nodes.reduce((most, n) => Math.max(most, episode.progress(n)), -Infinity);
    const isOver = row === episode.length;
    return [
      ["nodes", String(nodes.length)],
      ["rest", isOver ? "–" : String(how(0))],
      ["spawn", isOver ? "–" : String(how(SPAWN))],
      ["delete", isOver ? "–" : String(how(DELETE))],
      ["marked", String(nodes.filter(n => episode.isMarked(n)).length)],
      ["trees", String(nodes.filter(n => episode.parent[n] < 0).length)],
      ["mean age", nodes.length ? `${shown(row - episode.mean(row, episode.birth), 1)} steps` : "–"],
      ["mean stiffness", nodes.length ? `${shown(episode.mean(row, episode.stiffness), 2)} kPa` : "–"],
      ["front", nodes.length ? `${shown(front, 1)} of ${shown(episode.goal, 0)} µm` : "–"],
    ];
  }

  #ofNode(n) {
    const { episode, row } = this;
    const parent = episode.parentId(row, n), age = row - episode.birth[n];
    const children = episode.nodes(row).filter(m => episode.parent[m] === n - episode.begin[row]).length;
    const spawns = episode.kind(n) === SPAWN;
    const [step, half, noise, angle] = spawns ? episode.parameters(n) : [];
    return [
      ["parent", parent === null ? "none, a root" : this.#link(`node ${parent}`, () => this.hold(parent))],
      ["children", String(children)],
      ["age", `${count(age, "step")}, ${hours(age * episode.minutesPerStep)}`],
      ["place", `${shown(episode.x[n], 1)}, ${shown(episode.y[n], 1)} µm`],
      ["stiffness", `${shown(episode.stiffness[n], 2)} kPa`],
      ["marked", episode.isMarked(n) ? "yes" : "no"],
      ["action", KINDS[episode.kind(n)]],
      ["max step", spawns ? `${shown(step, 2)} µm` : "–"],
      ["half saturation", spawns ? `${shown(half, 2)} kPa` : "–"],
      ["noise", spawns ? shown(noise, 3) : "–"],
      ["angle", spawns ? `${shown(angle, 2)} rad, ${shown(angle * 180 / Math.PI, 0)}°` : "–"],
    ];
  }

  #ofAbsent(id) {
    const { first, last } = this.episode.lives.get(id);
    const isEarly = this.row < first;
    return [
      [isEarly ? "not born yet" : "died", isEarly ? `born at step ${first}` : `after step ${last}`],
      ["go to", this.#link(`step ${isEarly ? first : last}`, () => this.player.go(isEarly ? first : last))],
    ];
  }

  #link(text, act) {
    const button = make("button", { type: "button", class: "link" }, text);
    button.addEventListener("click", act);
    return button;
  }

  /** Bars of a node's attention, of the mean over the colony where no node is chosen. */
  #showAttention(id, n) {
    const { episode, row, player } = this;
    const weights = id === null ? episode.meanAttention.map(values => values[row])
      : n < 0 ? null : episode.attentionOf(row, n);
    const title = id === null ? "mean attention" : episode.attentionRows === "node" ? "attention" : "attention of the colony";
    const bars = episode.ptms.map((name, k) => {
      const weight = weights?.[k];
      const known = Number.isFinite(weight);
      const colour = css(player.colours.categories[k % player.colours.categories.length]);
      return make("div", { class: "weight" }, make("span", {}, name), make("output", {}, known ? shown(weight, 3) : "–"),
        make("i", { style: `--share: ${known ? weight : 0}; background: ${colour}` }));
    });
    this.part(".attention").replaceChildren(make("h4", {}, title), ...bars);
  }
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const hours = minutes => `${shown(minutes / 60, 1)} h`;

class Player {
  constructor({ episodes, colours, manyNodes }) {
    this.colours = colours;
    this.step = 0;
    this.length = Math.max(...episodes.map(episode => episode.length));
    this.minutes = episodes[0].minutesPerStep;
    const stiffness = this.#stiffnessRange(episodes);
    this.colourings = makeColourings(episodes, colours, stiffness);
    this.colouring = this.colourings[0];
    this.hull = this.closeUp = false;
    this.agents = episodes.map((episode, e) => {
      const element = find(`#agent-${e}`);
      return new Agent(element, episode, new Stage(element.querySelector("canvas"), episode, colours, stiffness, manyNodes), this);
    });
    this.focused = this.agents[0];
    this.panels = makePanels(episodes, colours);
    find("#curves").append(...this.panels.map(panel => panel.element));
    this.stiffness = stiffness;
    if (episodes.length > 1) this.agents.forEach((agent, e) =>
      agent.part("h2").prepend(swatch(css(agentColour(e, colours)), agentDash(e)), " "));
    this.#connect();
    this.go(this.#askedStep());
  }

  /** The step that the address asks for: replay.html#step=43. */
  #askedStep() {
    return Number(/#step=(\d+)/.exec(location.hash)?.[1] ?? 0);
  }

  /** Show a step; one outside the episode is taken to its nearer end. */
  go(step) {
    this.step = Math.min(this.length, Math.max(0, step));
    for (const agent of this.agents) agent.show();
    for (const panel of this.panels) panel.show(this.step);
    const time = hours(this.step * this.minutes);
    find("#scrub").value = this.step;
    find("#scrub").setAttribute("aria-valuetext", `step ${this.step} of ${this.length}, ${time}`);
    find("#clock").replaceChildren(make("b", {}, `step ${this.step}`), ` of ${this.length}`, make("span", {}, time));
  }

  get isPlaying() {
    return this.timer !== undefined;
  }

  /** Play on; from the start where it stands at the end. */
  play() {
    if (this.step === this.length) this.go(0);
    const tick = () => {
      this.go(this.step + 1);
      if (this.step === this.length) this.pause();
      else this.timer = setTimeout(tick, 1000 / this.speed);
    };
    this.timer = setTimeout(tick, 1000 / this.speed);
    this.#showButton();
  }

  pause() {
    if (!this.isPlaying) return;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.#showButton();
    this.say(`paused at step ${this.step}`);
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  /** Go somewhere by hand, which ends the playing. */
  jump(step) {
    this.pause();
    this.go(step);
  }

  get speed() {
    return Number(find("#speed").value);
  }

  faster(by) {
    const menu = find("#speed");
    menu.selectedIndex = Math.min(SPEEDS.length - 1, Math.max(0, menu.selectedIndex + by));
    this.say(`${menu.value} steps per second`);
  }

  /** Tell those who listen to the page. */
  say(text) {
    find("#said").textContent = text;
  }

  #stiffnessRange(episodes) {
    const [low, high] = rangeOf(episodes.map(episode => episode.field));
    return high - low > 1e-6 * high ? [low, high] : [0.5 * low, 1.5 * high];
  }

  #showButton() {
    const button = find("#play"), what = this.isPlaying ? "pause" : "play";
    button.setAttribute("aria-label", what);
    button.title = `${what} (space)`;
    button.querySelector("path").setAttribute("d", this.isPlaying ? "M6 5h4v14H6zM14 5h4v14h-4z" : "M7 4l13 8-13 8z");
  }

  #connect() {
    const click = (id, act) => find(id).addEventListener("click", act);
    click("#first", () => this.jump(0));
    click("#back", () => this.jump(this.step - 1));
    click("#play", () => this.toggle());
    click("#forward", () => this.jump(this.step + 1));
    click("#last", () => this.jump(this.length));
    const scrub = find("#scrub");
    scrub.max = this.length;
    scrub.addEventListener("input", () => this.jump(Number(scrub.value)));
    find("#speed").append(...SPEEDS.map(speed => make("option", { value: speed }, `${speed} / s`)));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    find("#speed").value = calm ? 2 : SPEEDS.find(speed => this.length / speed <= SECONDS) ?? SPEEDS.at(-1);
    const menu = find("#colour");
    menu.append(...this.colourings.map(({ name }) => make("option", {}, name)));
    menu.addEventListener("change", () => this.#colour(menu.selectedIndex));
    find("#hull").addEventListener("change", () => this.#switch("hull"));
    find("#closeUp").addEventListener("change", () => this.#switch("closeUp"));
    for (const panel of this.panels) {
      panel.onJump(step => this.jump(step));
      panel.element.addEventListener("redrawn", () => panel.show(this.step));
    }
    document.addEventListener("keydown", event => this.#press(event));
    addEventListener("hashchange", () => this.jump(this.#askedStep()));
    this.#showLegend();
  }

  #colour(index) {
    this.colouring = this.colourings[index];
    find("#colour").selectedIndex = index;
    this.#showLegend();
    for (const agent of this.agents) agent.draw();
  }

  #switch(name) {
    this[name] = find(`#${name}`).checked = !this[name];
    for (const agent of this.agents) agent.draw();
  }

  #press(event) {
    const { target, key } = event;
    const isTyped = target.matches("select") || event.ctrlKey || event.metaKey || event.altKey;
    const isPressed = (key === " " || key === "Enter") && target.matches("button, input[type=checkbox], summary");
    if (isTyped || isPressed) return;
    const acts = {
      " ": () => this.toggle(),
      ArrowRight: () => this.jump(this.step + (event.shiftKey ? 10 : 1)),
      ArrowLeft: () => this.jump(this.step - (event.shiftKey ? 10 : 1)),
      Home: () => this.jump(0),
      End: () => this.jump(this.length),
      "+": () => this.faster(1),
      "=": () => this.faster(1),
      "-": () => this.faster(-1),
      n: () => this.focused.turn(1),
      p: () => this.focused.turn(-1),
      Escape: () => this.focused.hold(null),
      c: () => this.#colour((this.colourings.indexOf(this.colouring) + 1) % this.colourings.length),
      h: () => this.#switch("hull"),
      z: () => this.#switch("closeUp"),
    };
    const act = acts[key.length === 1 ? key.toLowerCase() : key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  #showLegend() {
    const { colouring, colours, stiffness } = this;
    const [rest, spawn, remove] = colours.kinds;
    const fills = colouring.isKind ? [["rest", rest], ["spawn", spawn]] : [];
    const plain = { fill: rest, newborn: false, marked: false, deleted: false };
    const symbols = [
      ...fills.map(([name, fill]) => [name, { ...plain, fill }]),
      ["delete", { ...plain, fill: colouring.isKind ? remove : rest, deleted: true }],
      ["newborn", { ...plain, newborn: true }],
      ["marked", { ...plain, marked: true }],
    ].map(([name, state]) => make("span", {}, this.#symbol(pen => drawNode(pen, [10, 10], 1.1, colours, state)), name));
    const ramp = colouring.ramp ? [makeRamp("", colouring.ramp.ends, colouring.ramp.texts)] : [];
    const ground = makeRamp("ground", colours.ground, ["", "kPa"], niceTicks(...stiffness, 6)
      .map(value => make("b", { style: `left: ${100 * (value - stiffness[0]) / (stiffness[1] - stiffness[0])}%` }, String(value))));
    const line = (name, ...parts) => make("span", {}, make("i", { class: name }), ...parts);
    find("#legend").replaceChildren(...ramp, ...symbols, line("trail", "centroid"), line("goal", "goal"), ground);
  }

  #symbol(draw) {
    const canvas = make("canvas", { width: 40, height: 40, class: "symbol", "aria-hidden": "true" });
    const pen = canvas.getContext("2d");
    pen.scale(2, 2);
    draw(pen);
    return canvas;
  }
}

/** A bar of colours between two texts, ticks below it. */
function makeRamp(name, table, [low, high], ticks = []) {
  const stops = table.filter((_, i) => i % 16 === 0 || i === table.length - 1).map(css).join(", ");
  return make("span", { class: "ramp" }, make("em", {}, name), low,
    make("i", { style: `background: linear-gradient(90deg, ${stops})` }, ...ticks), high);
}

// What asks for another browser stands on the page from the start, for browsers that cannot read this script.
if (typeof DecompressionStream !== "undefined") {
  new Player(await readData());
  find("#trouble").hidden = true;
  document.documentElement.dataset.ready = "";
}
