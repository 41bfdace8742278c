// The data of the page: the last status, values over time, decisions and events.

import { LIVE, viewOf } from './range.js';
import { FIGURES, Track } from './series.js';

/** The most parts that a backend's strip of states keeps. */
const PARTS = 500;
const DECISIONS = 60;
const EVENTS = 1000;

const sum = (items, figure) => items.reduce((total, item) => total + (item[figure] ?? NaN), 0);

/** A backend's key in this page: the same name with another address is another backend. */
export const keyOf = (pool, backend) => `${pool}\n${backend.name}\n${backend.address}`;

export class Store {
  constructor() {
    this.tracks = new Map();
    this.restart();
    this.status = null;
    this.decisions = [];
    this.range = LIVE;
    this.coarse = null;
    this.oldest = Infinity;
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
    if (!track) this.tracks.set(key, (track = new Track(LIVE.length)));
    return track;
  }

  /** Selects what the charts show; values by other steps than seconds come from the server's history. */
  select(range) {
    this.range = range;
    this.coarse = null;
    // Those that were too old for the former range are known from the events.
    const strips = this.strips;
    this.strips = new Map();
    for (const event of this.events) this.seeChange(event);
    for (const [key, strip] of strips) if (!this.strips.has(key)) this.strips.set(key, strip);
  }

  /** What the charts show of a listener, a pool, a backend or the process. */
  shown(kind, name) {
    if (this.range === LIVE) return this.track(kind, name);
    return this.coarse?.tracks.get(`${kind}\n${kind === 'backend' ? this.seriesOf(name) : name}`) ?? new Track(0);
  }

  /** The key of a backend's history, which those that follow each other under one name share. */
  seriesOf(key) {
    const { pool, series } = this.strips.get(key) ?? {};
    return `${pool}\n${series}`;
  }

  /** The part of the range that has values. */
  view() {
    const { range } = this;
    const end = this.coarse?.end ?? Math.floor(this.at / range.step);
    return viewOf(range, end, this.at - this.oldest);
  }

  /** The current time of the server's clock, which all times here refer to. */
  now() {
    return Date.now() / 1000 + (this.skew ?? 0);
  }

  takeStatus(status) {
    const local = Date.now() / 1000;
    const now = status.now ?? local;
    this.skew = now - local;
    this.started = now - status.uptime_seconds;
    this.oldest = Math.min(this.oldest, this.started);
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
    for (const [key, track] of this.tracks) if (now - track.seen > LIVE.length + 10) this.tracks.delete(key);
    for (const [key, strip] of this.strips) if (now - strip.seen > this.range.step * this.range.length + 10) this.strips.delete(key);
  }

  /** Takes the server's history, by the steps of a range. */
  takeHistory(range, history) {
    const end = Math.floor(history.end / range.step);
    if (range !== LIVE) this.coarse = { end, tracks: new Map() };
    const trackOf = (kind, name) => {
      if (range === LIVE) return this.track(kind, name);
      const track = new Track(range.length);
      this.coarse.tracks.set(`${kind}\n${name}`, track);
      return track;
    };
    const fill = (kind, name, kept) => {
      const track = trackOf(kind, name);
      track.seen = Math.max(track.seen, Math.floor(history.end));
      track.fill(end, range.step, kept);
    };
    for (const [name, kept] of Object.entries(history.listeners ?? {})) fill('listener', name, kept);
    for (const [name, kept] of Object.entries(history.pools ?? {})) fill('pool', name, kept);
    // Including backends that have left.
    for (const [key, { pool, series }] of this.strips) {
      const kept = history.backends?.[pool]?.[series];
      if (kept) fill('backend', range === LIVE ? key : this.seriesOf(key), kept);
    }
    const pools = Object.values(history.pools ?? {});
    const length = pools[0]?.connections?.length ?? 0;
    const whole = {};
    for (const figure of FIGURES) {
      whole[figure] = Array.from({ length }, (_, i) => pools.reduce((total, pool) => (pool[figure]?.[i] == null ? total : (total ?? 0) + pool[figure][i]), null));
    }
    fill('process', '', whole);
    // It may begin before the start of the process.
    const first = whole.connections.findIndex((value) => value !== null);
    if (first >= 0) this.oldest = Math.min(this.oldest, history.end - (length - 1 - first) * range.step);
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
    if (event.kind === 'started') this.troubles.clear(); // they were those of the process before
    this.seeChange(event);
    return true;
  }

  /** Adds a change of a backend's state to its strip. */
  seeChange(event) {
    if (event.kind === 'started') {
      // The states that the process before knew end here.
      for (const strip of this.strips.values()) strip.parts.push({ from: event.at, state: 'gone', cause: event.sentence });
    }
    if (event.kind !== 'state_changed') return;
    const strip = this.strip(event.pool, { name: event.backend, address: event.address });
    const last = strip.parts.at(-1);
    if (strip.parts.length === 0) strip.parts.push({ from: -Infinity, state: event.from });
    // The status may have contained it before.
    if (last?.state === event.to && Math.abs(last.from - event.at) < 5) Object.assign(last, { cause: event.cause, from: event.at });
    else strip.parts.push({ from: event.at, state: event.to, cause: event.cause });
    strip.parts.sort((a, b) => a.from - b.from);
    strip.seen = Math.max(strip.seen, event.at);
  }

  strip(pool, backend) {
    const key = keyOf(pool, backend);
    let strip = this.strips.get(key);
    if (!strip) this.strips.set(key, (strip = { pool, name: backend.name, series: backend.name, parts: [], seen: 0 }));
    if (backend.series) strip.series = backend.series; // an event has none
    return strip;
  }

  /** For a backend without events, the status has the start of its state. */
  seeState(pool, backend) {
    const strip = this.strip(pool, backend);
    strip.seen = this.at ?? backend.since;
    if (strip.parts.at(-1)?.state !== backend.state) strip.parts.push({ from: backend.since, state: backend.state, cause: backend.cause });
    if (strip.parts.length > PARTS) strip.parts.splice(0, strip.parts.length - PARTS);
  }
}
