// What the clients of the demo experience: one line for each algorithm, and where each returning client goes.

import { arrange, h, mark, say, show } from './dom.js';
import { count, millis, percent } from './format.js';

const HEADS = ['Algorithm', 'p50', 'p90', 'p99', 'No answer', 'Broken by a kill', 'Answered with an error', 'Retried', 'Shares of the answers'];

const TITLES = { p50: 'Half of the requests end within this time', p90: '90 of 100 requests end within this time', p99: '99 of 100 requests end within this time' };

export class Scores {
  constructor() {
    this.rows = new Map();
    this.body = h('tbody', {});
    const heads = HEADS.map((text, i) => h('th', { scope: 'col', class: i > 0 && i < HEADS.length - 1 ? 'number' : null, title: TITLES[text] }, text));
    this.element = h('div', { class: 'scores scroll', tabindex: '0', role: 'region', 'aria-label': 'What clients experience' },
      h('table', { class: 'plain' }, h('thead', {}, h('tr', {}, ...heads)), this.body));
  }

  update({ sides }) {
    arrange(this.body, sides.map((side) => {
      let row = this.rows.get(side.pool);
      if (!row) {
        const cells = HEADS.map((_, i) => h(i === 0 ? 'th' : 'td', { scope: i === 0 ? 'row' : null, 'data-title': HEADS[i], class: i === 0 ? null : i < HEADS.length - 1 ? 'number' : 'shares' }));
        row = { cells, element: h('tr', { 'data-side': side.pool }, ...cells) };
        this.rows.set(side.pool, row);
      }
      const shares = Object.entries(side.shares).map(([name, share]) => `${name} ${percent(share)}`).join(' · ');
      const texts = [side.algorithm, millis(side.p50_ms), millis(side.p90_ms), millis(side.p99_ms), count(side.failed), count(side.broken), count(side.errors), count(side.retried), shares];
      texts.forEach((text, i) => say(row.cells[i], text));
      for (const [i, figure] of [[4, 'failed'], [5, 'broken'], [6, 'errors']]) mark(row.cells[i], 'data-state', side[figure] > 0 ? 'down' : null);
      return row.element;
    }));
  }
}

export class Clients {
  constructor() {
    this.head = h('tr', {});
    this.body = h('tbody', {});
    this.rows = new Map();
    this.element = h('div', { class: 'clients scroll', tabindex: '0', role: 'region', 'aria-label': 'Where each client goes', hidden: true },
      h('table', { class: 'plain' }, h('thead', {}, this.head), this.body));
  }

  update({ sides }) {
    const addresses = [...new Set(sides.flatMap((side) => side.clients.map((client) => client.address)))];
    show(this.element, addresses.length > 0);
    if (addresses.length === 0) return;
    const heads = ['Client', ...sides.map((side) => side.algorithm)];
    while (this.head.children.length > heads.length) this.head.lastChild.remove();
    while (this.head.children.length < heads.length) this.head.append(h('th', { scope: 'col' }));
    heads.forEach((text, i) => say(this.head.children[i], text));
    arrange(this.body, addresses.map((address) => {
      let row = this.rows.get(address);
      if (!row) this.rows.set(address, (row = h('tr', {}, h('th', { scope: 'row' }, address))));
      while (row.children.length > heads.length) row.lastChild.remove();
      while (row.children.length < heads.length) row.append(h('td', {}));
      sides.forEach((side, i) => {
        const client = side.clients.find((one) => one.address === address);
        const moved = client?.moved_from ? `→ ${client.backend}, moved from ${client.moved_from}` : `→ ${client?.backend ?? '–'}`;
        say(row.children[i + 1], moved);
        mark(row.children[i + 1], 'class', client?.moved_from ? 'moved' : null);
      });
      return row;
    }));
  }
}
