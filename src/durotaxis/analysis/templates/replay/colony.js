// A colony on its substrate, drawn on a canvas as the films draw it.

const OLD_AGE = 30; // steps; older nodes look the same
const CLOSE_UP = 0.35; // of the substrate's width and height
const MARGIN = 9; // of the canvas around the substrate, as in the style sheet: nodes at its border are whole

const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const mix = (a, b, share) => a.map((from, i) => Math.round(from + (b[i] - from) * share));
const isDark = ([red, green, blue]) => 0.3 * red + 0.6 * green + 0.1 * blue < 150;
const pick = (table, share) => table[Math.round(Math.min(1, Math.max(0, share)) * (table.length - 1))];

/** What can colour the nodes: `of(episode, row, n)` gives a colour, `legend` what it means. */
function makeColourings(episodes, colours, stiffness) {
  const share = (value, [low, high]) => (value - low) / (high - low || 1);
  const white = colours.kinds[0];
  const found = [
    {
      name: "action",
      isKind: true,
      of: (episode, row, n) => colours.kinds[episode.kind(n)] ?? white,
    },
    {
      name: "age",
      of: (episode, row, n) => mix(white, colours.old, Math.min(row - episode.birth[n], OLD_AGE) / OLD_AGE),
      ramp: { ends: [white, colours.old], texts: ["0", `${OLD_AGE}+ steps`] },
    },
    {
      name: "stiffness",
      of: (episode, row, n) => pick(colours.viridis, share(episode.stiffness[n], stiffness)),
      ramp: { ends: colours.viridis, texts: [shown(stiffness[0], 1), `${shown(stiffness[1], 1)} kPa`] },
    },
  ];
  for (const ptm of new Set(episodes.flatMap(episode => episode.ptms))) {
    const ks = episodes.map(episode => episode.ptms.indexOf(ptm));
    const range = rangeOf(episodes.map((episode, e) => episode.attention[ks[e]] ?? []));
    const strong = mix(colours.categories[Math.max(...ks) % colours.categories.length], [0, 0, 0], 0.25);
    found.push({
      name: `attention: ${ptm}`,
      of: (episode, row, n) => {
        const weights = episode.attentionOf(row, n), k = episode.ptms.indexOf(ptm);
        return weights === null || k < 0 ? null : mix(white, strong, share(weights[k], range));
      },
      ramp: { ends: [white, strong], texts: range.map(value => shown(value, 2)) },
    });
  }
  return found;
}

/** One substrate with its colony. Lengths on the canvas are CSS pixels. */
class Stage {
  constructor(canvas, episode, colours, stiffness, manyNodes) {
    Object.assign(this, { canvas, episode, colours, manyNodes });
    this.pen = canvas.getContext("2d");
    this.ground = this.#paintGround(stiffness);
  }

  /** Whether a row has too many nodes for symbols. */
  isCrowded(row) {
    return this.episode.counts[row] > this.manyNodes;
  }

  /** Paint one row. `held` is the id of the chosen node, or null. */
  draw(row, { colouring, hull, closeUp }, held) {
    const { canvas, pen, episode } = this;
    const pixels = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = Math.round(width * pixels);
    canvas.height = Math.round(height * pixels);
    this.#look(row, closeUp, width, height);
    this.unit = Math.min(1.35, Math.max(0.72, width / 720));
    pen.scale(pixels, pixels);
    pen.imageSmoothingQuality = "high";
    if (closeUp) {
      pen.rect(this.map.left, this.map.top, this.map.wide, this.map.high);
      pen.clip();
    }
    this.#drawGround();
    pen.lineCap = pen.lineJoin = "round";
    this.#drawGoal();
    this.#drawScaleBar();
    const nodes = episode.nodes(row);
    this.#drawTrail(row);
    if (hull) this.#drawHull(nodes);
    this.#drawEdges(row, nodes);
    this.#drawCentroid(row);
    if (this.isCrowded(row)) this.#drawDots(row, nodes, colouring);
    else this.#drawNodes(row, nodes, colouring);
    if (held !== null) this.#drawHeld(row, held);
  }

  at(n) {
    return this.#pixels(this.episode.x[n], this.episode.y[n]);
  }

  /** Nodes of a row within `reach` of a point, nearest first. */
  near(row, x, y, reach) {
    const far = n => Math.hypot(this.at(n)[0] - x, this.at(n)[1] - y);
    return this.episode.nodes(row).filter(n => far(n) <= reach).sort((a, b) => far(a) - far(b));
  }

  /** Choose what is seen: the substrate, or a part of it around the centroid. */
  #look(row, closeUp, width, height) {
    const { size, centroids } = this.episode, share = closeUp ? CLOSE_UP : 1;
    const seen = size.map(length => share * length);
    this.scale = Math.min((width - 2 * MARGIN) / seen[0], (height - 2 * MARGIN) / seen[1]);
    this.corner = size.map((length, i) => {
      const from = (centroids[row]?.[i] ?? length / 2) - seen[i] / 2;
      return Math.min(length - seen[i], Math.max(0, from));
    });
    const [wide, high] = seen.map(length => length * this.scale);
    this.map = { left: (width - wide) / 2, top: (height - high) / 2, wide, high };
  }

  #pixels(x, y) {
    const { map, corner, scale } = this;
    return [map.left + (x - corner[0]) * scale, map.top + map.high - (y - corner[1]) * scale];
  }

  #drawGround() {
    const { pen, ground, corner, map, scale, episode: { size } } = this;
    const [across, down] = [ground.width / size[0], ground.height / size[1]]; // pixels of the field per µm
    const wide = map.wide / scale, high = map.high / scale, above = size[1] - corner[1] - high;
    pen.drawImage(ground, corner[0] * across, above * down, wide * across, high * down,
      map.left, map.top, map.wide, map.high);
  }

  #paintGround([low, high]) {
    const [rows, columns] = this.episode.pixels;
    const ground = new OffscreenCanvas(columns, rows);
    const picture = new ImageData(columns, rows);
    this.episode.field.forEach((value, i) => {
      picture.data.set([...pick(this.colours.ground, (value - low) / (high - low)), 255], 4 * i);
    });
    ground.getContext("2d").putImageData(picture, 0, 0);
    return ground;
  }

  #line(points, colour, width, dash = []) {
    const { pen } = this;
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(x, y);
    pen.setLineDash(dash);
    pen.strokeStyle = css(colour);
    pen.lineWidth = width;
    pen.stroke();
    pen.setLineDash([]);
  }

  #drawGoal() {
    const { pen, map, unit, colours, episode: { along: [cos, sin], origin, goal, size } } = this;
    const s = goal + origin[0], far = size[0] + size[1] + Math.abs(s);
    pen.save();
    pen.beginPath();
    pen.rect(map.left, map.top, map.wide, map.high);
    pen.clip();
    const ends = [-far, far].map(t => this.#pixels(s * cos - t * sin, s * sin + t * cos));
    const dash = [7 * unit, 7 * unit];
    this.#line(ends, colours.paper, 4 * unit, dash);
    this.#line(ends, colours.ink, 2 * unit, dash);
    pen.restore();
  }

  #drawScaleBar() {
    const { pen, map, colours, scale } = this;
    const most = map.wide / scale / 4, power = 10 ** Math.floor(Math.log10(most));
    const length = Math.max(...[1, 2, 5].map(n => n * power).filter(n => n <= most));
    pen.fillStyle = css(colours.ink);
    const x = map.left + 10, y = map.top + map.high - 13;
    pen.fillRect(x, y, length * scale, 3);
    pen.font = "12px system-ui, sans-serif";
    pen.fillText(`${length} µm`, x, y - 6);
  }

  #drawTrail(row) {
    const trail = this.episode.centroids.slice(0, row + 1).filter(at => at !== null);
    const points = trail.map(([x, y]) => this.#pixels(x, y));
    this.#line(points, this.colours.paper, 4 * this.unit);
    this.#line(points, this.colours.ink, 2 * this.unit);
  }

  #drawCentroid(row) {
    const { pen, unit, colours } = this;
    const at = this.episode.centroids[row];
    if (at === null) return;
    const [x, y] = this.#pixels(...at), r = 6 * unit;
    pen.beginPath();
    for (const [dx, dy] of [[0, -r], [r, 0], [0, r], [-r, 0]]) pen.lineTo(x + dx, y + dy);
    pen.closePath();
    pen.fillStyle = css(colours.ink);
    pen.fill();
    pen.strokeStyle = css(colours.paper);
    pen.lineWidth = 1.5 * unit;
    pen.stroke();
  }

  #drawHull(nodes) {
    const { pen, colours } = this;
    const corners = hullOf(nodes.map(n => this.at(n)));
    if (corners.length < 3) return;
    pen.beginPath();
    for (const [x, y] of corners) pen.lineTo(x, y);
    pen.closePath();
    pen.fillStyle = "rgb(255 255 255 / 0.3)";
    pen.fill();
    pen.strokeStyle = css(colours.ink);
    pen.lineWidth = 1;
    pen.stroke();
  }

  #drawEdges(row, nodes) {
    const { pen, episode, unit, colours } = this;
    const first = episode.begin[row];
    pen.beginPath();
    for (const n of nodes) {
      if (episode.parent[n] < 0) continue;
      pen.moveTo(...this.at(first + episode.parent[n]));
      pen.lineTo(...this.at(n));
    }
    pen.strokeStyle = css(colours.ink);
    pen.lineWidth = this.isCrowded(row) ? 0.3 : 1.5 * unit;
    pen.stroke();
  }

  /** What is rarer is drawn later, on top. */
  #drawNodes(row, nodes, colouring) {
    const { episode } = this;
    const rank = n => 2 * episode.isMarked(n) + (episode.kind(n) === DELETE);
    for (const n of nodes.sort((a, b) => rank(a) - rank(b) || a - b)) {
      drawNode(this.pen, this.at(n), this.unit, this.colours, {
        fill: colouring.of(episode, row, n),
        newborn: row > 0 && episode.birth[n] === row,
        marked: episode.isMarked(n),
        deleted: episode.kind(n) === DELETE,
      });
    }
  }

  /** Thousands of nodes: squares, those to be deleted in the colour of their ring. */
  #drawDots(row, nodes, colouring) {
    const { pen, episode, colours } = this;
    for (const n of nodes) {
      const [x, y] = this.at(n);
      const fill = colouring.of(episode, row, n) ?? colours.kinds[0];
      pen.fillStyle = css(episode.isMarked(n) ? colours.mark : fill);
      pen.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
  }

  #drawHeld(row, id) {
    const n = this.episode.find(row, id);
    if (n < 0) return;
    for (const [colour, width] of [[this.colours.paper, 5], [this.colours.ink, 2.5]])
      ring(this.pen, this.at(n), 11 * this.unit, css(colour), width);
  }
}

function ring(pen, [x, y], radius, colour, width) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.stroke();
}

/** A node: a disc; small when newborn, inside a ring when marked, crossed when it deletes itself. */
function drawNode(pen, [x, y], unit, colours, { fill, newborn, marked, deleted }) {
  const radius = (newborn ? 3.2 : 4.8) * unit;
  if (marked) ring(pen, [x, y], 7.2 * unit, css(colours.mark), 2 * unit);
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = css(fill ?? [170, 176, 184]);
  pen.fill();
  pen.strokeStyle = css(colours.ink);
  pen.lineWidth = 1.2 * unit;
  pen.stroke();
  if (!deleted) return;
  const reach = 0.5 * radius;
  pen.beginPath();
  for (const sign of [-1, 1]) {
    pen.moveTo(x - reach, y - sign * reach);
    pen.lineTo(x + reach, y + sign * reach);
  }
  pen.strokeStyle = css(fill && isDark(fill) ? colours.paper : colours.ink);
  pen.lineWidth = 1.5 * unit;
  pen.stroke();
}

/** Corners of the convex hull of points, in order (Andrew's monotone chain). */
function hullOf(points) {
  const ordered = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const turn = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
  const chain = candidates => {
    const kept = [];
    for (const point of candidates) {
      while (kept.length > 1 && turn(kept.at(-2), kept.at(-1), point) <= 0) kept.pop();
      kept.push(point);
    }
    return kept.slice(0, -1);
  };
  return [...chain(ordered), ...chain(ordered.reverse())];
}
