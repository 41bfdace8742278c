// The listeners, the last decisions and the last events.

import { Spark } from './chart.js';
import { arrange, h, mark, say, show } from './dom.js';
import { bytes, clock, count, rate, times } from './format.js';
import { sign, tone } from './states.js';

const DECISIONS = 12;
const CHANGES = 40;

/** Open connections, those that allow, deny, proxy_protocol and per_client have rejected, and those that dry_run only counted. */
function open(listener) {
  const rejected = listener.denied + listener.preface_failed + listener.over_client_limits;
  const counted = listener.over_client_limits_dry_run;
  const notes = [rejected && `${count(rejected)} rejected`, counted && `${count(counted)} over a limit, dry run`].filter(Boolean);
  return notes.length ? `${count(listener.active)} (${notes.join(', ')})` : count(listener.active);
}

export class Listeners {
  constructor(place) {
    this.rows = new Map();
    this.body = h('tbody', { role: 'rowgroup' });
    const heads = ['Listener', 'Addresses', 'Pool', 'Open', 'Conn/s', 'From clients/s', 'To clients/s', 'Connections/s over time'];
    place.append(h('table', { class: 'listeners', role: 'table' },
      h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, ...heads.map((text, i) => h('th', { role: 'columnheader', scope: 'col', class: i > 2 && i < 7 ? 'number' : null }, text)))), this.body));
    this.heads = heads;
  }

  update(status, store) {
    const view = store.view();
    const rows = status.listeners.map((listener) => {
      let row = this.rows.get(listener.name);
      if (!row) {
        const spark = new Spark(`Connections per second of ${listener.name}`);
        const cells = this.heads.map((title, i) => h('td', { role: 'cell', 'data-title': title, class: ['name', 'address', null, 'number', 'number', 'number', 'number', 'holder'][i] }));
        cells[7].append(spark.canvas);
        row = { cells, spark, element: h('tr', { role: 'row', 'data-listener': listener.name }, ...cells) };
        this.rows.set(listener.name, row);
      }
      const track = store.track('listener', listener.name);
      const drained = listener.state === 'draining' ? ' (draining)' : '';
      const texts = [listener.name, listener.addresses.join(', ') + drained, listener.pools.join(', '), open(listener), rate(track.connections.mean(3)), bytes(track.bytes_in.mean(3)), bytes(track.bytes_out.mean(3))];
      texts.forEach((text, i) => say(row.cells[i], text));
      mark(row.element, 'title', listener.kernel_obstacle ? `The kernel does not forward its bytes: ${listener.kernel_obstacle}` : null);
      row.spark.draw(store.shown('listener', listener.name).connections, view);
      return row.element;
    });
    for (const name of this.rows.keys()) if (!status.listeners.some((listener) => listener.name === name)) this.rows.delete(name);
    arrange(this.body, rows);
  }
}

/** A list that does not change while the pointer is over it or the focus is in it. */
class Held {
  constructor(list, sign) {
    this.list = list;
    this.sign = sign;
    this.pointed = false;
    list.addEventListener('pointerenter', (event) => (this.pointed = event.pointerType === 'mouse'));
    list.addEventListener('pointerleave', () => (this.pointed = false));
  }

  get held() {
    const held = this.pointed || this.list.contains(document.activeElement);
    if (this.sign) show(this.sign, held);
    // A dialog returns the focus to the element that opened it.
    return held || document.querySelector('dialog[open]') !== null;
  }
}

export class Decisions {
  constructor(list, paused, ask) {
    this.list = list;
    this.hold = new Held(list, paused);
    this.ask = ask;
    this.empty = h('li', { class: 'empty' }, 'No connection was routed since this page was opened.');
    this.lines = new Map();
  }

  update(decisions) {
    if (this.hold.held) return;
    if (decisions.length === 0) return arrange(this.list, [this.empty]);
    const shown = decisions.slice(0, DECISIONS);
    arrange(this.list, shown.map((one) => this.line(one)));
    if (this.lines.size > 4 * DECISIONS) this.lines = new Map(shown.map((one) => [keyOf(one), this.line(one)]));
    return undefined;
  }

  line(one) {
    let line = this.lines.get(keyOf(one));
    if (!line) {
      const question = one.backend === null ? `Why did ${one.client} get no backend?` : `Why did ${one.client} go to ${one.backend}?`;
      line = h('li', { 'data-state': one.backend === null ? 'down' : one.skipped ? 'draining' : null },
        h('time', {}, clock(one.at)),
        h('p', {}, one.sentence),
        h('button', { type: 'button', class: 'ask', 'aria-label': question, onclick: () => this.ask(one) }, 'why?'));
      this.lines.set(keyOf(one), line);
    }
    return line;
  }
}

const keyOf = (one) => `${one.conn} ${one.at}`;

/** More events than these that differ only in their backend are folded. */
const ALIKE = 3;
/** The time between two events of a group, in seconds. */
const TOGETHER = 10;

/** The latest events in groups, newest first, until `most` lines are full. */
function groups(events, most) {
  const found = [];
  for (let i = events.length - 1, lines = 0; i >= 0 && lines < most; i -= 1) {
    const [one, group] = [events[i], found.at(-1)];
    const before = group?.at(-1);
    const alike = before && one.pool && ['kind', 'pool', 'from', 'to'].every((key) => one[key] === before[key]) && before.at - one.at <= TOGETHER;
    if (alike) group.push(one);
    else found.push([one]);
    if (!alike || group.length <= ALIKE) lines += 1;
  }
  return found;
}

export class Changes {
  constructor(list) {
    this.list = list;
    this.hold = new Held(list);
    this.lines = new WeakMap();
    this.folds = new WeakMap();
    this.unfolded = new WeakSet();
    this.empty = h('li', { class: 'empty' }, 'Nothing has changed since this page was opened.');
  }

  update(events) {
    if (this.hold.held) return;
    this.draw(events);
  }

  draw(events) {
    const lines = [];
    for (const group of groups(events, CHANGES)) {
      const first = group[0];
      const folded = group.length > ALIKE && !this.unfolded.has(group.at(-1));
      lines.push(...(folded ? [first] : group).map((one) => this.line(one)));
      if (folded) lines.push(this.fold(group, events));
    }
    arrange(this.list, lines.length ? lines : [this.empty]);
  }

  /** The line that stands for all events of a group but the first. */
  fold(group, events) {
    const oldest = group.at(-1);
    let line = this.folds.get(oldest);
    if (!line) {
      const button = h('button', { type: 'button', class: 'more' });
      line = h('li', { class: 'fold' }, button);
      this.folds.set(oldest, line);
    }
    const button = line.firstChild;
    say(button, `Show ${times(group.length - 1, 'more such event')}`);
    button.onclick = () => {
      this.unfolded.add(oldest);
      this.draw(events);
    };
    return line;
  }

  line(one) {
    let line = this.lines.get(one);
    if (!line) {
      const state = tone(one);
      line = h('li', { 'data-state': state, 'data-kind': one.kind }, h('time', {}, clock(one.at)),
        h('p', {}, h('span', { class: 'sign', 'aria-hidden': 'true' }, one.kind === 'state_changed' ? sign(state) : '·'), ' ', one.sentence));
      this.lines.set(one, line);
    }
    return line;
  }
}

