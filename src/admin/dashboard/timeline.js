// The states of a pool's backends over the shown range: a strip for each.

import { arrange, h, mark, say, sayName } from './dom.js';
import { clock } from './format.js';
import { roundSpan } from './range.js';
import { sign } from './states.js';

/** With more backends than this, those that were always up have no strip, and the latest changes come first. */
const FEW = 7;
const MOST = 7;

export class Timeline {
  constructor() {
    this.list = h('ul', { class: 'strips' });
    this.rest = h('p', { class: 'note' });
    this.title = h('span', {});
    this.began = h('span', {});
    this.element = h('figure', { class: 'chart timeline' }, h('figcaption', {}, this.title), this.list,
      h('div', { class: 'axis', 'aria-hidden': 'true' }, this.began, h('span', {}, 'now')), this.rest);
    this.rows = new Map();
  }

  update(pool, store) {
    const now = store.now();
    const { step, length } = store.view();
    const start = now - step * length;
    say(this.title, `States, last ${roundSpan(step * length)}`);
    say(this.began, `−${roundSpan(step * length)}`);
    const strips = [...store.strips.entries()].filter(([, strip]) => strip.pool === pool.name);
    const dull = ([, strip]) => strip.parts.at(-1).state === 'up' && strip.parts.at(-1).from <= start;
    const told = strips.length <= FEW ? strips : strips.filter((strip) => !dull(strip));
    told.sort(([, a], [, b]) => (strips.length <= FEW ? 0 : b.parts.at(-1).from - a.parts.at(-1).from) || collator.compare(a.name, b.name));
    const shown = told.slice(0, MOST);
    const rows = shown.map(([key, strip]) => this.row(key, strip, start, now, store.started));
    arrange(this.list, rows);
    for (const key of this.rows.keys()) if (!store.strips.has(key)) this.rows.delete(key);
    const others = strips.length - told.length;
    const hidden = told.length - shown.length;
    say(this.rest, [hidden && `${hidden} more with changes`, others && `${others} always up`].filter(Boolean).join(' · '));
  }

  row(key, strip, start, now, began) {
    let row = this.rows.get(key);
    if (!row) {
      const track = h('div', { class: 'track' });
      row = { element: h('li', {}, h('span', { class: 'label' }), track), track };
      this.rows.set(key, row);
    }
    sayName(row.element.firstChild, strip.name);
    const parts = strip.parts.filter((part, i) => (strip.parts[i + 1]?.from ?? Infinity) > start);
    while (row.track.children.length > parts.length) row.track.lastChild.remove();
    while (row.track.children.length < parts.length) row.track.append(h('span', {}));
    parts.forEach((part, i) => {
      // A state without a beginning is known since the start of the process.
      const from = Math.max(Number.isFinite(part.from) ? part.from : (began ?? start), start);
      const to = Math.min(parts[i + 1]?.from ?? now, now);
      const bar = row.track.children[i];
      mark(bar, 'data-state', part.state);
      say(bar, part.state === 'gone' ? '' : `${sign(part.state)} ${part.state}`);
      mark(bar, 'title', `${strip.name} ${part.state} ${Number.isFinite(part.from) ? `from ${clock(part.from)}` : ''}${part.cause ? `: ${part.cause}` : ''}`);
      const left = `${(((from - start) / (now - start)) * 100).toFixed(1)}%`;
      const width = `${Math.max(0, ((to - from) / (now - start)) * 100).toFixed(1)}%`;
      if (bar.left !== left) bar.style.left = bar.left = left;
      if (bar.wide !== width) bar.style.width = bar.wide = width;
    });
    return row.element;
  }
}

const collator = new Intl.Collator('en', { numeric: true });
