// The data of the page: the last status, values for each second of the last minutes, decisions and events.

/** The number of seconds that are kept and shown. */
export const WINDOW = 300;
const DECISIONS = 60;
const EVENTS = 1000;

/** One value for each second of the window, by its second: a second without a status stays a gap. */
export class Series {
  constructor() {
    this.values = new Float32Array(WINDOW + 1).fill(NaN);
    this.last = null;
  }

  put(second, value) {
    if (this.last !== null && second < this.last) return;
    // One second without a value is a late status; more are a gap.
    const gap = this.last === null ? WINDOW : second - this.last - 1;
    for (let i = 1; i <= Math.min(gap, WINDOW); i += 1) this.values[(second - i) % this.values.length] = gap === 1 ? value : NaN;
    this.values[second % this.values.length] = value;
    this.last = second;
  }

  at(second) {
    return this.last === null || second > this.last || second <= this.last - this.values.length
      ? NaN
      : this.values[second % this.values.length];
  }

  /** Adds values from before the first one, the last of them at `end`. */
  fill(end, step, values) {
    const live = this.last;
    const earlier = new Series();
    values.forEach((value, i) => earlier.put(Math.floor(end) - (values.length - 1 - i) * step, value ?? NaN));
    if (live === null) Object.assign(this, earlier);
    else {
      for (let second = live - WINDOW; second <= live; second += 1) {
        if (second >= 0 && Number.isNaN(this.at(second))) this.values[second % this.values.length] = earlier.at(second);
      }
    }
  }

  /** The mean of the last `n` seconds. */
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

const FIGURES = ['active', 'connections', 'bytes_in', 'bytes_out'];
const PERCENTILES = ['p50', 'p90', 'p99'];

/**
 * The values of a listener, a pool or a backend: `active` is a gauge, the other figures are rates per second; of pools and
 * backends also the percentiles of the time to the first byte, in milliseconds.
 */
class Track {
  constructor() {
    for (const figure of FIGURES) this[figure] = new Series();
    this.first_byte = Object.fromEntries(PERCENTILES.map((percentile) => [percentile, new Series()]));
    this.totals = null;
    this.seen = 0;
  }

  /** Adds totals, of which only the growth is shown. */
  add(now, totals) {
    const second = Math.floor(now);
    const before = this.totals;
    this.totals = { now, ...totals };
    this.seen = second;
    this.active.put(second, totals.active ?? NaN);
    const time = before ? now - before.now : 0;
    for (const figure of FIGURES.slice(1)) {
      const grown = before && time > 0 ? totals[figure] - before[figure] : NaN;
      this[figure].put(second, Number.isNaN(grown) || grown === undefined ? NaN : Math.max(0, grown) / time);
    }
    for (const percentile of PERCENTILES) this.first_byte[percentile].put(second, totals.first_byte?.[`${percentile}_ms`] ?? NaN);
  }

  /** Adds the server's history from before this page was opened. */
  fill(end, step, history) {
    this.seen = Math.max(this.seen, Math.floor(end));
    for (const figure of FIGURES) this[figure].fill(end, step, history[figure] ?? []);
    for (const percentile of PERCENTILES) {
      const micros = history.first_byte?.[`${percentile}_us`] ?? [];
      this.first_byte[percentile].fill(end, step, micros.map((value) => (value === null ? null : value / 1000)));
    }
  }
}

const sum = (items, figure) => items.reduce((total, item) => total + (item[figure] ?? NaN), 0);

/** A backend's key in this page: the same name with another address is another backend. */
export const keyOf = (pool, backend) => `${pool}\n${backend.name}\n${backend.address}`;

export class Store {
  constructor() {
    this.tracks = new Map();
    this.restart();
    this.status = null;
    this.decisions = [];
  }

  /**
   * Resets the data for a new server process, whose totals start at 0. Its events may have other numbers: they are requested
   * again, with those of the process before if the server keeps them.
   */
  restart() {
    this.events = [];
    this.latest = 0;
    this.strips = new Map();
    this.troubles = new Map();
    this.started = null;
    for (const track of this.tracks.values()) track.totals = null;
  }

  track(kind, name) {
    const key = `${kind}\n${name}`;
    let track = this.tracks.get(key);
    if (!track) this.tracks.set(key, (track = new Track()));
    return track;
  }

  /** The present time of the server's clock, which all times here refer to. */
  now() {
    return Date.now() / 1000 + (this.skew ?? 0);
  }

  takeStatus(status) {
    const local = Date.now() / 1000;
    const now = status.now ?? local;
    this.skew = now - local;
    this.started = now - status.uptime_seconds;
    this.status = status;
    this.at = now;
    for (const pool of status.pools) {
      for (const backend of pool.backends) {
        this.track('backend', keyOf(pool.name, backend)).add(now, backend);
        this.seeState(pool.name, backend);
      }
      // The totals of a backend that has left are only in the pool's totals.
      const whole = pool.connections === undefined ? pool.backends : [pool];
      const totals = Object.fromEntries(FIGURES.map((figure) => [figure, sum(whole, figure)]));
      this.track('pool', pool.name).add(now, { ...totals, first_byte: pool.first_byte });
    }
    for (const listener of status.listeners) this.track('listener', listener.name).add(now, listener);
    const all = Object.fromEntries(FIGURES.map((figure) => [figure, sum(status.pools.map((pool) => this.track('pool', pool.name).totals), figure)]));
    this.track('process', '').add(now, { ...all, active: status.open ?? sum(status.listeners, 'active') });
    for (const [key, track] of this.tracks) if (now - track.seen > WINDOW + 10) this.tracks.delete(key);
    for (const [key, strip] of this.strips) if (now - strip.seen > WINDOW + 10) this.strips.delete(key);
  }

  takeHistory(history) {
    const fill = (kind, named) => {
      for (const [name, kept] of Object.entries(named ?? {})) this.track(kind, name).fill(history.end, history.step_seconds, kept);
    };
    fill('listener', history.listeners);
    fill('pool', history.pools);
    // Including backends that have left.
    for (const [key, { pool, name }] of this.strips) {
      const kept = history.backends?.[pool]?.[name];
      if (kept) this.track('backend', key).fill(history.end, history.step_seconds, kept);
    }
    const pools = Object.values(history.pools ?? {});
    const length = pools[0]?.connections?.length ?? 0;
    const whole = {};
    for (const figure of FIGURES) {
      whole[figure] = Array.from({ length }, (_, i) => pools.reduce((total, pool) => (pool[figure]?.[i] == null ? total : (total ?? 0) + pool[figure][i]), null));
    }
    this.track('process', '').fill(history.end, history.step_seconds, whole);
  }

  /** Decisions, newest first. */
  takeDecisions(decisions) {
    this.decisions = [...decisions, ...this.decisions].slice(0, DECISIONS);
  }

  /** Adds an event; false if it is known already. */
  takeEvent(event) {
    if (event.id <= this.latest) return false;
    this.latest = event.id;
    this.events.push(event);
    if (this.events.length > EVENTS) this.events.splice(0, this.events.length - EVENTS);
    if (event.kind === 'resolver_status_changed') this.troubles.set(`${event.pool}\n${event.source}`, event);
    if (event.kind === 'started') {
      // The states and troubles that the process before knew end here.
      this.troubles.clear();
      for (const strip of this.strips.values()) strip.parts.push({ from: event.at, state: 'gone', cause: event.sentence });
    }
    if (event.kind === 'state_changed') {
      const strip = this.strip(event.pool, { name: event.backend, address: event.address });
      const last = strip.parts.at(-1);
      if (strip.parts.length === 0) strip.parts.push({ from: -Infinity, state: event.from });
      // The status may have contained it before.
      if (last?.state === event.to && Math.abs(last.from - event.at) < 5) Object.assign(last, { cause: event.cause, from: event.at });
      else strip.parts.push({ from: event.at, state: event.to, cause: event.cause });
      strip.parts.sort((a, b) => a.from - b.from);
      strip.seen = Math.max(strip.seen, event.at);
    }
    return true;
  }

  strip(pool, backend) {
    const key = keyOf(pool, backend);
    let strip = this.strips.get(key);
    if (!strip) this.strips.set(key, (strip = { pool, name: backend.name, parts: [], seen: 0 }));
    return strip;
  }

  /** For a backend without events, the status has the start of its state. */
  seeState(pool, backend) {
    const strip = this.strip(pool, backend);
    strip.seen = this.at ?? backend.since;
    if (strip.parts.at(-1)?.state !== backend.state) strip.parts.push({ from: backend.since, state: backend.state, cause: backend.cause });
    while (strip.parts.length > 1 && strip.parts[1].from < this.at - WINDOW) strip.parts.shift();
  }
}
