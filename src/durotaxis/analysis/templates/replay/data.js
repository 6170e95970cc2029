// The page's numbers: typed arrays of one or two episodes. Their list: durotaxis.analysis.replay.

const ARRAYS = { f4: Float32Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };
const SPAWN = 1, DELETE = 2, UNDECIDED = 3, MARKED = 4;

async function readData() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const text = atob(document.getElementById("packed").textContent);
  const packed = Uint8Array.from(text, letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return { ...data, episodes: data.episodes.map(described => new Episode(described, buffer)) };
}

/** One array of the page, quantised numbers brought back to their range. */
function column({ type, start, length, low, high }, buffer) {
  const stored = new ARRAYS[type](buffer, start, length);
  return low === undefined ? stored : Float32Array.from(stored, n => low + (high - low) * n / 65535);
}

/** One recorded episode. Row t holds the colony before step t; the last row what there was at the end. */
class Episode {
  constructor({ columns, ...info }, buffer) {
    Object.assign(this, info);
    const all = Object.fromEntries(Object.entries(columns).map(([name, at]) => [name, column(at, buffer)]));
    Object.assign(this, all);
    this.columns = all;
    this.attention = this.ptms.map((_, k) => all[`attention/${k}`]);
    this.along = [Math.cos(this.direction), Math.sin(this.direction)];
    this.lives = this.#findLives();
    this.spawnsBefore = this.#countSpawns();
    this.counts = Float32Array.from({ length: this.length + 1 }, (_, t) => this.begin[t + 1] - this.begin[t]);
    this.centroids = Array.from(this.counts, (count, t) =>
      count ? [this.mean(t, this.x), this.mean(t, this.y)] : null);
    this.meanAttention = this.ptms.map((_, k) => Float32Array.from({ length: this.length }, (_, t) =>
      this.attentionRows === "node" ? this.mean(t, this.attention[k]) : this.attention[k][t]));
  }

  /** The row that is shown at a step of the shared clock: an episode stays at its end. */
  row(step) {
    return Math.min(step, this.length);
  }

  /** Places of a row's nodes within the columns. */
  nodes(row) {
    return Array.from({ length: this.counts[row] }, (_, i) => this.begin[row] + i);
  }

  /** Mean over the nodes of a row; null where there are none. */
  mean(row, values) {
    const first = this.begin[row], end = this.begin[row + 1];
    let sum = 0;
    for (let n = first; n < end; n++) sum += values[n];
    return end > first ? sum / (end - first) : null;
  }

  /** Place of the node with this id in a row, -1 where it does not live. */
  find(row, id) {
    const at = this.id.subarray(this.begin[row], this.begin[row + 1]).indexOf(id);
    return at < 0 ? -1 : this.begin[row] + at;
  }

  /** µm along the way to the goal. */
  progress(n) {
    return this.x[n] * this.along[0] + this.y[n] * this.along[1] - this.origin[0];
  }

  kind(n) {
    return this.state[n] % MARKED;
  }

  isMarked(n) {
    return this.state[n] >= MARKED;
  }

  parentId(row, n) {
    return this.parent[n] < 0 ? null : this.id[this.begin[row] + this.parent[n]];
  }

  /** The parameters of a spawning node, in the units of the records. */
  parameters(n) {
    const at = this.spawnsBefore[n];
    return [this.max_step[at], this.half_saturation[at], this.noise[at], this.angle[at]];
  }

  /** Attention of a node over the PTMs; null at the end, which no decision follows. */
  attentionOf(row, n) {
    if (!this.ptms.length || row >= this.length) return null;
    return this.attention.map(values => values[this.attentionRows === "node" ? n : row]);
  }

  /** First and last row of every id. */
  #findLives() {
    const lives = new Map();
    for (let row = 0; row <= this.length; row++)
      for (let n = this.begin[row]; n < this.begin[row + 1]; n++) {
        const life = lives.get(this.id[n]);
        if (life) life.last = row;
        else lives.set(this.id[n], { first: row, last: row });
      }
    return lives;
  }

  #countSpawns() {
    const before = new Int32Array(this.state.length);
    let count = 0;
    for (let n = 0; n < before.length; n++) {
      before[n] = count;
      count += this.kind(n) === SPAWN;
    }
    return before;
  }
}

/** Smallest and largest number, over several arrays. */
function rangeOf(arrays) {
  let low = Infinity, high = -Infinity;
  for (const values of arrays)
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  return low <= high ? [low, high] : [0, 1];
}

/** Round numbers within [low, high], about `count` of them. */
function niceTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= rough * 0.99);
  const first = Math.ceil(low / step - 1e-6), last = Math.floor(high / step + 1e-6);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

/** A number with a true minus sign. */
function shown(value, digits) {
  return (Object.is(Number(value.toFixed(digits)), -0) ? 0 : value).toFixed(digits).replace("-", "−");
}
