// What is wrong now: the section above everything else, the tab's title and its icon.

import { arrange, h, mark, say, show } from './dom.js';
import { clock, span, times } from './format.js';

/** More problems than this are folded: on a small screen they would leave no room for anything else. */
const SHOWN = { wide: 6, narrow: 3 };
const NARROW = matchMedia('(max-width: 760px)');
const ICONS = { critical: 'dashboard/icon-critical.svg', warning: 'dashboard/icon-warning.svg', none: 'dashboard/icon.svg' };
const SIGNS = { critical: '✕', warning: '▲' };

const severityOf = (problem) => (problem.severity === 'critical' ? 'critical' : 'warning');
const keyOf = (problem) => [problem.kind, problem.pool, problem.listener, problem.source].join('\n');

/** A text with `commands` in it. */
const withCommands = (text) => text.split('`').map((part, i) => (i % 2 ? h('code', {}, part) : part));

export class Problems {
  constructor(place, spoken, icon) {
    this.place = place;
    this.spoken = spoken;
    this.icon = icon;
    this.lines = new Map();
    this.all = false;
    [this.problems, this.now] = [[], 0];
    this.title = h('h2', { id: 'problems-title' });
    this.list = h('ol', { class: 'problem-lines' });
    this.more = h('button', { type: 'button', class: 'more', onclick: () => this.toggle() });
    place.append(h('div', { class: 'head' }, this.title), this.list, this.more);
  }

  toggle() {
    this.all = !this.all;
    this.draw();
  }

  /** `now` is the server's time. */
  update(problems, now) {
    [this.problems, this.now] = [problems, now];
    this.draw();
    const worst = problems.length ? severityOf(problems[0]) : 'none';
    document.title = problems.length ? `(${problems.length}) Pointsman` : 'Pointsman';
    if (this.icon.getAttribute('href') !== ICONS[worst]) this.icon.setAttribute('href', ICONS[worst]);
    this.speak();
  }

  /** The instance cannot be reached: its problems are unknown, and no other icon can be fetched. */
  lose() {
    document.title = '(?) Pointsman';
  }

  draw() {
    const { problems, now } = this;
    mark(this.place, 'data-severity', problems.length ? severityOf(problems[0]) : null);
    say(this.title, problems.length === 1 ? 'One problem' : times(problems.length, 'problem'));
    const room = NARROW.matches ? SHOWN.narrow : SHOWN.wide;
    const shown = this.all ? problems : problems.slice(0, room);
    arrange(this.list, shown.map((problem) => this.line(problem, now)));
    show(this.more, problems.length > room);
    say(this.more, this.all ? 'Show fewer' : `Show ${problems.length - room} more`);
    mark(this.more, 'aria-expanded', String(this.all));
    show(this.place, problems.length > 0);
    const kept = new Set(problems.map(keyOf));
    for (const key of this.lines.keys()) if (!kept.has(key)) this.lines.delete(key);
  }

  line(problem, now) {
    const key = keyOf(problem);
    let line = this.lines.get(key);
    if (!line) {
      line = { sign: h('span', { class: 'sign', 'aria-hidden': 'true' }), word: h('span', { class: 'unseen' }), text: h('p', { class: 'what' }), age: h('time', {}), hint: h('p', { class: 'hint' }) };
      line.element = h('li', { 'data-kind': problem.kind }, line.sign, h('div', {}, line.word, line.text, line.hint), line.age);
      this.lines.set(key, line);
    }
    mark(line.element, 'data-severity', severityOf(problem));
    say(line.sign, SIGNS[severityOf(problem)]);
    say(line.word, `${severityOf(problem)}: `);
    say(line.text, problem.sentence);
    say(line.age, `for ${span(now - problem.since)}`);
    mark(line.age, 'title', `since ${clock(problem.since)}`);
    if (line.hinted !== problem.hint) {
      line.hinted = problem.hint;
      line.hint.replaceChildren(...withCommands(problem.hint));
    }
    return line.element;
  }

  /** Tells screen readers about problems that begin and end, but not about each new figure. */
  speak() {
    const kinds = this.problems.map((problem) => `${severityOf(problem)} ${keyOf(problem)}`).join('\n\n');
    if (kinds === this.said || (this.said === undefined && kinds === '')) return;
    this.said = kinds;
    const worst = this.problems[0];
    say(this.spoken, worst ? `${times(this.problems.length, 'problem')}. ${severityOf(worst)}: ${worst.sentence}` : 'No more problems.');
  }

  /** The pools in their order, but those with problems first, the worst of them at the top. */
  ordered(pools) {
    const rank = (pool) => {
      const index = this.problems.findIndex((problem) => problem.pool === pool.name);
      return index < 0 ? Infinity : index;
    };
    const ranks = new Map(pools.map((pool) => [pool, rank(pool)]));
    return [...pools].sort((a, b) => (ranks.get(a) === ranks.get(b) ? 0 : ranks.get(a) - ranks.get(b)));
  }
}
