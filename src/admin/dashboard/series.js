// Values over time: one for each step of a range.

/** So many steps without a value are a late status, or the moment between the history and the first status; more are a gap. */
const BRIDGED = 2;

/** One value for each of the last steps, by the step's number since the epoch: a step without a value stays a gap. */
export class Series {
  constructor(length) {
    this.length = length;
    this.values = new Float32Array(length + 1).fill(NaN);
    this.last = null;
  }

  put(step, value) {
    if (this.last !== null && step < this.last) return;
    const gap = this.last === null ? this.length : step - this.last - 1;
    const between = gap <= BRIDGED ? value : NaN;
    for (let i = 1; i <= Math.min(gap, this.length); i += 1) this.values[(step - i) % this.values.length] = between;
    this.values[step % this.values.length] = value;
    this.last = step;
  }

  at(step) {
    return this.last === null || step > this.last || step <= this.last - this.values.length
      ? NaN
      : this.values[step % this.values.length];
  }

  /** Adds values from before the first one, the last of them at the step `end`. */
  fill(end, values) {
    const live = this.last;
    const earlier = new Series(this.length);
    values.forEach((value, i) => earlier.put(end - (values.length - 1 - i), value ?? NaN));
    if (live === null) Object.assign(this, earlier);
    else {
      for (let step = live - this.length; step <= live; step += 1) {
        if (step >= 0 && Number.isNaN(this.at(step))) this.values[step % this.values.length] = earlier.at(step);
      }
      const first = end + 1;
      const next = Array.from({ length: BRIDGED + 1 }, (_, i) => first + i).find((step) => !Number.isNaN(this.at(step)));
      for (let step = first; step < (next ?? first); step += 1) this.values[step % this.values.length] = this.at(next);
    }
  }

  /** The mean of the last `n` steps. */
  mean(n) {
    let [sum, known] = [0, 0];
    for (let i = 0; i < n && this.last !== null; i += 1) {
      const value = this.at(this.last - i);
      if (!Number.isNaN(value)) {
        sum += value;
        known += 1;
      }
    }
    return known ? sum / known : NaN;
  }
}

export const FIGURES = ['active', 'connections', 'bytes_in', 'bytes_out'];
const PERCENTILES = ['p50', 'p90', 'p99'];

/**
 * The values of a listener, a pool or a backend: `active` is a gauge, the other figures are rates per second; of pools and
 * backends also the percentiles of the time to the first byte, in milliseconds.
 */
export class Track {
  constructor(length) {
    for (const figure of FIGURES) this[figure] = new Series(length);
    this.first_byte = Object.fromEntries(PERCENTILES.map((percentile) => [percentile, new Series(length)]));
    this.totals = null;
    this.seen = 0;
  }

  /** Adds totals, of which only the growth is shown. A step is a second. */
  add(now, totals) {
    const second = Math.floor(now);
    const before = this.totals;
    this.totals = { now, ...totals };
    this.seen = second;
    this.active.put(second, totals.active ?? NaN);
    const time = before ? now - before.now : 0;
    for (const figure of before ? FIGURES.slice(1) : []) {
      const grown = time > 0 ? totals[figure] - before[figure] : NaN;
      this[figure].put(second, Number.isNaN(grown) || grown === undefined ? NaN : Math.max(0, grown) / time);
    }
    for (const percentile of PERCENTILES) this.first_byte[percentile].put(second, totals.first_byte?.[`${percentile}_ms`] ?? NaN);
  }

  /** Adds the server's history, whose last step is `end`: the growth in each step of so many seconds. */
  fill(end, seconds, history) {
    this.active.fill(end, history.active ?? []);
    const rate = (grown) => (grown === null ? null : grown / seconds);
    for (const figure of FIGURES.slice(1)) this[figure].fill(end, (history[figure] ?? []).map(rate));
    for (const percentile of PERCENTILES) {
      const micros = history.first_byte?.[`${percentile}_us`] ?? [];
      this.first_byte[percentile].fill(end, micros.map((value) => (value === null ? null : value / 1000)));
    }
  }
}
