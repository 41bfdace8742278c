// A pool's section: its state, its charts, its backends.

import { Chart } from './chart.js';
import { arrange, h, mark, say, show } from './dom.js';
import { bytes, clock, count, millis, percent, rate, times } from './format.js';
import { keyOf } from './store.js';
import { Table } from './table.js';
import { Timeline } from './timeline.js';

/** With at most this many backends, each has its own color. */
const COLORS = 8;

export class PoolSection {
  constructor(name, act) {
    this.name = name;
    this.title = h('h2', { id: `pool-${name}` }, name);
    this.algorithm = h('span', { class: 'tag' });
    this.up = h('span', { class: 'up' });
    this.alarm = h('span', { class: 'alarm' });
    this.figures = h('dl', { class: 'figures' });
    this.values = new Map();
    this.connections = new Chart('Connections per second', rate, { stacked: true });
    this.bytes = new Chart('Bytes per second', bytes, { unit: 1024 });
    this.latency = new Chart('Time to the first byte', millis);
    this.timeline = new Timeline();
    this.table = new Table(name, act);
    this.empty = h('p', { class: 'empty', role: 'status' });
    this.replicas = h('p', { class: 'replicas' });
    this.shadow = h('div', { class: 'shadow' });
    this.charts = h('div', { class: 'charts' }, this.connections.element, this.bytes.element, this.latency.element, this.timeline.element);
    this.element = h('section', { class: 'card pool', 'aria-labelledby': `pool-${name}`, 'data-pool': name },
      h('div', { class: 'head' }, this.title, this.algorithm, this.up, this.alarm, this.figures),
      this.empty, this.replicas, this.charts, this.table.element, this.shadow);
    this.hues = new Map();
  }

  /** A backend keeps its color while it is shown. */
  hue(key) {
    if (!this.hues.has(key)) {
      const taken = new Set(this.hues.values());
      let hue = 0;
      while (taken.has(hue)) hue += 1;
      this.hues.set(key, hue);
    }
    return this.hues.get(key);
  }

  figure(name, value, title) {
    let shown = this.values.get(name);
    if (!shown) {
      shown = h('dd', {});
      this.values.set(name, shown);
      this.figures.append(h('div', { title }, h('dt', {}, name), shown));
    }
    say(shown, value);
  }

  update(pool, store) {
    const total = pool.backends.length;
    say(this.algorithm, pool.algorithm);
    say(this.up, `${count(pool.up)} of ${times(total, 'backend')} in use`);
    mark(this.up, 'data-state', pool.up === 0 ? 'down' : pool.up < total ? 'draining' : 'up');
    const { totals } = store.track('pool', pool.name);
    const short = pool.zone?.short ? `▲ ${pool.zone.up} of ${pool.zone.backends} up in zone ${pool.zone.name}: other zones are used too` : '';
    say(this.alarm, pool.panic ? '▲ panic: too few backends are up, so all are used' : short);
    this.figure('open', count(totals?.active), 'open connections');
    this.figure('waiting', count(pool.queue), 'clients in the queue');
    this.figure('retried', count(pool.failures_masked), 'failed attempts, retried on another backend');
    if (pool.tiers.length > 1) {
      this.figure('overflow', count(pool.overflowed), 'connections on a backup, because all other backends were full');
    }
    this.figure('failed', count(pool.failures_seen), 'client-visible failures');
    this.figure('no backend', count(pool.unserved), 'connections without a backend');
    this.tellEmpty(pool, store);
    this.tellReplicas(pool.replicas);
    const [shown, view] = [store.shown('pool', pool.name), store.view()];
    this.connections.draw(this.shares(pool, store), view);
    this.bytes.draw([
      { name: 'from clients', series: shown.bytes_in, hue: 0 },
      { name: 'to clients', series: shown.bytes_out, hue: 1 },
    ], view);
    this.latency.draw(Object.entries(shown.first_byte).map(([name, series], hue) => ({ name, series, hue })), view);
    this.timeline.update(pool, store);
    show(this.table.element, total > 0);
    this.table.update(pool, store);
  }

  /** With few backends each has a series; with many, the chart shows their sum. */
  shares(pool, store) {
    const keys = [...store.strips.keys()].filter((key) => store.strips.get(key).pool === pool.name);
    for (const key of this.hues.keys()) if (!keys.includes(key)) this.hues.delete(key);
    if (keys.length === 0 || keys.length > COLORS) {
      return [{ name: `all ${times(pool.backends.length, 'backend')}`, series: store.shown('pool', pool.name).connections, hue: 0 }];
    }
    const names = new Map();
    return keys.map((key) => {
      const { name } = store.strips.get(key);
      const nth = (names.get(name) ?? 0) + 1;
      names.set(name, nth);
      return { name: nth > 1 ? `${name} (${key.split('\n')[2]})` : name, series: store.shown('backend', key).connections, hue: this.hue(key) };
    }).sort((a, b) => a.hue - b.hue);
  }

  tellEmpty(pool, store) {
    const troubles = [...store.troubles.values()].filter((event) => event.pool === pool.name && event.trouble);
    const said = troubles.map((event) => `${event.source}: ${event.trouble.reason}`);
    let text = '';
    if (pool.backends.length === 0) {
      text = said.length ? `No backend found yet: ${said.join('; ')}.` : pool.settled ? 'No backend found yet: the sources report none.' : 'Discovering backends…';
    } else if (pool.up === 0) text = 'No backend is up: new connections are rejected.';
    else if (said.length) text = `${said.join('; ')}. Known backends stay in the pool.`;
    say(this.empty, text);
    show(this.empty, text !== '');
  }

  tellReplicas(replicas) {
    show(this.replicas, Boolean(replicas));
    if (!replicas) return;
    const { running, wanted, min, max, respawns } = replicas;
    const last = replicas.last_decision;
    say(this.replicas, [
      `Replicas: ${count(running)} running of ${count(wanted)} wanted`,
      min !== undefined && `at least ${count(min)}, at most ${count(max)}`,
      respawns !== undefined && `${times(respawns, 'respawn')}`,
      last && `at ${clock(last.at)} from ${count(last.from)} to ${count(last.to)}${last.only_told ? ' (dry run)' : ''}: ${last.cause}`,
      replicas.trouble && `the engine does not answer: ${replicas.trouble}`,
    ].filter(Boolean).join(' · '));
  }

  /** Shows the results of the shadow algorithms; `null`: there are none. */
  tellShadow(shadow) {
    if (!shadow?.algorithms?.length) return arrange(this.shadow, []);
    const rows = shadow.algorithms.map((one) => h('tr', {},
      h('th', { scope: 'row' }, one.algorithm + (one.is_actual ? ' (active)' : '')),
      h('td', {}, one.worst_backend ?? ''), h('td', { class: 'number' }, count(one.worst_active_peak)),
      h('td', {}, (one.backends ?? []).slice(0, 6).map((backend) => `${backend.backend} ${percent(shadow.connections ? backend.connections / shadow.connections : NaN)}`).join(', '))));
    const head = ['Algorithm', 'Busiest', 'Most at once', 'Shares'].map((text, i) => h('th', { scope: 'col', class: i === 2 ? 'number' : null }, text));
    arrange(this.shadow, [
      h('h3', {}, `What other algorithms would have done with ${times(shadow.connections, 'connection')}`),
      h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `Other algorithms for ${this.name}` }, h('table', { class: 'plain' }, h('thead', {}, h('tr', {}, ...head)), h('tbody', {}, ...rows))),
    ]);
    return undefined;
  }
}
