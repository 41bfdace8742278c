// The backends of a pool: a table, which becomes a list of cards on a narrow screen.

import { arrange, h, mark, say, sayName, show } from './dom.js';
import { bytes, clock, count, millis, NONE, percent, rate, span } from './format.js';
import { keyOf } from './store.js';
import { rank, sign } from './states.js';

/** With more backends than this they are sorted by severity, and only the first are shown. */
const MANY = 30;
const SHOWN = 25;
const SHOWN_AS_CARDS = 10;
/** With many rows, those out of sight are updated in turns, for screen readers, unless their state changes. */
const TURNS = 8;
/** The period of rates and shares, in seconds. */
const LATELY = 5;

const COLUMNS = [
  { id: 'name', title: 'Backend', by: (row) => row.name },
  { id: 'state', title: 'State and cause', by: (row) => row.rank },
  { id: 'share', title: 'Share', by: (row) => -row.share, number: true, hint: 'of the connections that the pool routed in the last seconds' },
  { id: 'active', title: 'Open', by: (row) => -row.active, number: true, hint: 'open connections' },
  { id: 'rate', title: 'Conn/s', by: (row) => -row.rate, number: true, hint: 'new connections per second' },
  { id: 'bytes', title: 'Bytes/s', by: (row) => -row.bytes, number: true, hint: 'from and to clients' },
  { id: 'latency', title: 'First byte', by: (row) => -(row.latency?.p50_ms ?? -1), number: true, hint: 'from routing to the first byte, median and 99th percentile of the last minute' },
  { id: 'check', title: 'Last check', by: (row) => (row.check === null ? 2 : row.check.passed ? 1 : 0) },
  { id: 'weight', title: 'Weight', by: (row) => -row.weight, number: true },
];

export class Table {
  /** `act` has the actions of the buttons: `open(backend)`, `change(backend, state, button)`, `weigh(backend)`. */
  constructor(pool, act) {
    this.pool = pool;
    this.act = act;
    this.rows = new Map();
    this.order = [];
    this.sort = null;
    this.all = false;
    this.turn = 0;
    this.filter = h('input', { type: 'search', placeholder: 'Filter by name, address or state', 'aria-label': `Filter the backends of ${pool}`, oninput: () => this.arrange(true) });
    this.by = h('select', { 'aria-label': `Sort the backends of ${pool}`, onchange: () => this.sortBy(this.by.value, 1) },
      ...COLUMNS.map((column) => h('option', { value: column.id }, column.title)));
    this.found = h('span', { class: 'note', role: 'status' });
    this.heads = COLUMNS.map((column) => this.head(column));
    this.body = h('tbody', { role: 'rowgroup' });
    this.more = h('button', { type: 'button', class: 'more', onclick: () => {
      this.all = !this.all;
      this.arrange(true);
    } });
    this.bar = h('div', { class: 'filter' }, this.filter, h('label', { class: 'sortby' }, 'by ', this.by), this.found);
    this.table = h('table', { role: 'table', class: 'backends', 'aria-label': `Backends of ${pool}` },
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, ...this.heads.map((head) => head.cell), h('th', { role: 'columnheader', class: 'do' }, 'Actions'))), this.body);
    this.element = h('div', { class: 'listing' }, this.bar, this.table, this.more);
    this.body.addEventListener('click', (event) => this.click(event));
    this.sight = new IntersectionObserver((entries) => {
      for (const { target: { row }, isIntersecting } of entries) {
        row.seen = isIntersecting;
        if (row.seen && this.rows.get(row.key) === row) this.write(row, this.now);
      }
    }, { rootMargin: '200px' });
    // While the pointer is over the table, its rows do not move.
    this.held = false;
    this.body.addEventListener('pointerenter', () => (this.held = true));
    this.body.addEventListener('pointerleave', () => (this.held = false));
  }

  head(column) {
    const button = h('button', { type: 'button', class: 'sort', title: column.hint ?? null, onclick: () => this.sortBy(column.id) }, column.title, h('i', { 'aria-hidden': 'true' }));
    return { id: column.id, button, cell: h('th', { role: 'columnheader', class: `${column.id}${column.number ? ' number' : ''}`, scope: 'col' }, button) };
  }

  sortBy(id, way) {
    const again = this.sort?.id === id;
    this.sort = { id, way: way ?? (again ? -this.sort.way : 1) };
    this.arrange(true);
  }

  /** Updates the rows. */
  update(pool, store) {
    const now = store.now();
    const backends = pool.backends;
    const tracks = backends.map((backend) => store.track('backend', keyOf(pool.name, backend)));
    const rates = tracks.map((track) => track.connections.mean(LATELY));
    const all = rates.reduce((total, one) => total + (one || 0), 0);
    const seen = new Set();
    backends.forEach((backend, i) => {
      const key = keyOf(pool.name, backend);
      seen.add(key);
      let row = this.rows.get(key);
      if (!row) this.rows.set(key, (row = this.row(key)));
      Object.assign(row, {
        backend, name: backend.name, state: backend.state, rank: rank(backend.state),
        rate: rates[i], share: all > 0 ? (rates[i] || 0) / all : 0, traffic: all > 0,
        bytes: (tracks[i].bytes_in.mean(LATELY) || 0) + (tracks[i].bytes_out.mean(LATELY) || 0),
        in: tracks[i].bytes_in.mean(LATELY), out: tracks[i].bytes_out.mean(LATELY),
        active: backend.active, latency: backend.first_byte, check: backend.last_check, weight: backend.weight,
      });
      row.text = `${backend.name} ${backend.address} ${backend.state}`.toLowerCase();
    });
    for (const [key, row] of this.rows) {
      if (seen.has(key)) continue;
      this.sight.unobserve(row.element);
      this.rows.delete(key);
    }
    this.now = now;
    show(this.bar, this.rows.size > 6);
    this.arrange(false);
    this.turn = (this.turn + 1) % TURNS;
    this.order.forEach((row, i) => {
      if (row.seen || row.told !== row.state || this.rows.size <= MANY || i % TURNS === this.turn) this.write(row, now);
    });
  }

  /** Sorts the rows; while their order is held, only adds and removes rows. */
  arrange(asked) {
    const many = this.rows.size > MANY;
    const { id, way } = this.sort ?? { id: many ? 'state' : 'name', way: 1 };
    const column = COLUMNS.find((one) => one.id === id);
    for (const head of this.heads) {
      mark(head.cell, 'aria-sort', head.id === id ? (way > 0 !== Boolean(column.number) ? 'ascending' : 'descending') : null);
    }
    if (this.by.value !== id) this.by.value = id;
    const words = this.filter.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const fit = [...this.rows.values()].filter((row) => words.every((word) => row.text.includes(word)));
    const focus = document.activeElement;
    const held = !asked && (this.held || (this.body.contains(focus) && focus.matches(':focus-visible')));
    if (held) {
      const places = new Map(this.sorted?.map((row, i) => [row, i]));
      fit.sort((a, b) => (places.get(a) ?? Infinity) - (places.get(b) ?? Infinity) || 0);
    } else {
      const name = (a, b) => collator.compare(a.name, b.name) || collator.compare(a.backend.address, b.backend.address);
      fit.sort((a, b) => {
        const [left, right] = [column.by(a), column.by(b)];
        const less = typeof left === 'string' ? collator.compare(left, right) : left - right || 0;
        return less * way || name(a, b);
      });
    }
    this.sorted = fit;
    this.order = many && !this.all && words.length === 0 ? fit.slice(0, this.first()) : fit;
    show(this.more, many && words.length === 0);
    say(this.more, this.all ? `Show only the first ${this.first()}` : `Show all ${count(this.rows.size)} backends`);
    say(this.found, words.length ? `${count(fit.length)} of ${count(this.rows.size)}` : '');
    arrange(this.body, this.order.map((row) => row.element));
    if (asked) for (const row of this.order) if (!row.told) this.write(row, this.now);
  }

  first() {
    return matchMedia('(max-width: 760px)').matches ? SHOWN_AS_CARDS : SHOWN;
  }

  row(key) {
    const cell = (id, ...children) => h('td', { role: 'cell', class: id, 'data-title': COLUMNS.find((column) => column.id === id)?.title ?? null }, ...children);
    const parts = {
      name: h('button', { type: 'button', class: 'name', 'data-do': 'open' }),
      address: h('span', { class: 'address' }),
      state: h('span', { class: 'word' }),
      since: h('span', { class: 'since' }),
      cause: h('span', { class: 'cause' }),
      bar: h('i', {}),
      share: h('span', {}),
      active: h('td', { role: 'cell', class: 'active number', 'data-title': 'Open' }),
      rate: h('td', { role: 'cell', class: 'rate number', 'data-title': 'Conn/s' }),
      in: h('span', {}),
      out: h('span', {}),
      median: h('span', {}),
      most: h('span', {}),
      slower: h('strong', { class: 'slower' }),
      check: h('span', {}),
      ago: h('span', { class: 'ago' }),
      weight: h('button', { type: 'button', class: 'weigh', 'data-do': 'weigh' }),
      main: h('button', { type: 'button' }),
      other: h('button', { type: 'button' }),
      asking: h('span', { class: 'asking', role: 'status' }),
    };
    const element = h('tr', { role: 'row' },
      cell('name', parts.name, parts.address),
      cell('state', h('span', { class: 'line' }, parts.state, parts.since), parts.cause),
      h('td', { role: 'cell', class: 'share number', 'data-title': 'Share' }, h('span', { class: 'bar-of', 'aria-hidden': 'true' }, parts.bar), parts.share),
      parts.active, parts.rate,
      h('td', { role: 'cell', class: 'bytes number', 'data-title': 'Bytes/s' }, parts.in, parts.out),
      h('td', { role: 'cell', class: 'latency number', 'data-title': 'First byte' }, parts.median, parts.most, parts.slower),
      cell('check', parts.check, parts.ago),
      h('td', { role: 'cell', class: 'weight number', 'data-title': 'Weight' }, parts.weight),
      h('td', { role: 'cell', class: 'do' }, parts.main, parts.other, parts.asking));
    const row = { key, element, parts };
    element.row = row;
    this.sight.observe(element);
    return row;
  }

  /** Writes the cells of a row whose text has changed. */
  write(row, now) {
    const { backend, parts } = row;
    row.told = row.state;
    mark(row.element, 'data-state', backend.state);
    sayName(parts.name, backend.name);
    mark(parts.name, 'aria-label', `${backend.name}: details, and why it gets no connections`);
    say(parts.address, backend.name === backend.address ? '' : backend.address);
    say(parts.state, `${sign(backend.state)} ${backend.state}`);
    say(parts.since, `for ${span(now - backend.since)}`);
    mark(parts.since, 'title', `since ${clock(backend.since)}`);
    const ramp = backend.ramp < 100 && backend.state === 'up' ? ` · slow start: ${backend.ramp} % of its share` : '';
    say(parts.cause, `${backend.tier > 0 ? 'backup · ' : ''}${backend.zone ? `zone ${backend.zone} · ` : ''}${backend.cause}${ramp}`);
    mark(parts.cause, 'title', backend.cause);
    const share = Math.round(row.share * 1000) / 10;
    if (parts.bar.share !== share) {
      parts.bar.share = share;
      parts.bar.style.transform = `scaleX(${share / 100})`;
    }
    say(parts.share, row.traffic ? percent(row.share) : NONE);
    say(parts.active, backend.limit ? `${count(backend.active)} / ${count(backend.limit)}` : count(backend.active));
    say(parts.rate, rate(row.rate));
    say(parts.in, `↑ ${bytes(row.in)}`);
    say(parts.out, `↓ ${bytes(row.out)}`);
    say(parts.median, millis(row.latency?.p50_ms));
    say(parts.most, row.latency ? `p99 ${millis(row.latency.p99_ms)}` : '');
    say(parts.slower, backend.times_slower ? `▲ ${count(backend.times_slower)} × the others` : '');
    mark(row.element, 'data-slow', backend.times_slower ? '' : null);
    const check = backend.last_check;
    // The cause explains why a backend is down.
    const failed = backend.state === 'down' ? 'failed' : check?.error;
    say(parts.check, check ? `${check.passed ? `✓ ${millis(check.took_ms)}` : `✕ ${failed}`}` : 'not checked');
    mark(parts.check, 'title', check ? `${check.kind}${check.error ? `: ${check.error}` : ''}` : null);
    mark(parts.check, 'class', check ? (check.passed ? 'passed' : 'failed') : 'none');
    say(parts.ago, check ? `${span(now - check.at)} ago` : '');
    say(parts.weight, count(backend.weight));
    mark(parts.weight, 'aria-label', `Weight of ${backend.name}: ${backend.weight}. Change it`);
    mark(parts.weight, 'title', 'Set weight');
    const out = backend.state === 'draining' || backend.state === 'maintenance';
    this.offer(parts.main, backend, out ? ['up', 'Enable'] : ['draining', 'Drain']);
    this.offer(parts.other, backend, backend.state === 'maintenance' ? ['draining', 'Drain'] : ['maintenance', 'Maintenance']);
  }

  offer(button, backend, [state, word]) {
    say(button, word);
    mark(button, 'data-do', state);
    mark(button, 'aria-label', `${word} ${backend.name}`);
    mark(button, 'title', TITLES[state]);
  }

  click(event) {
    const button = event.target.closest('button');
    if (!button) return;
    const { row } = button.closest('tr');
    const action = button.dataset.do;
    if (action === 'open') this.act.open(row.backend);
    else if (action === 'weigh') this.act.weigh(row.backend);
    else this.setState(row, action);
  }

  /** Requests another state of a row's backend. */
  setState({ backend, parts }, state) {
    this.act.change(backend, { state }, parts.asking, [parts.main, parts.other]);
  }

  /** The row that has the focus. */
  focused() {
    return this.body.contains(document.activeElement) ? document.activeElement.closest('tr').row : null;
  }

  /** Moves the focus to the next or the previous row. */
  step(by) {
    const names = this.order.map((row) => row.parts.name);
    const at = names.findIndex((name) => name.closest('tr').contains(document.activeElement));
    names[Math.max(0, Math.min(names.length - 1, at + by))]?.focus();
  }
}

const TITLES = {
  draining: 'No new connections; existing ones finish',
  maintenance: 'No new connections, no checks; existing ones finish',
  up: 'Back in service if its checks pass',
};

const collator = new Intl.Collator('en', { numeric: true });
