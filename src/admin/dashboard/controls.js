// The controls of the demo: actions on each backend, and on the whole scene.

import { arrange, h, mark, say, show } from './dom.js';
import { sign } from './states.js';

/** The actions on a backend: whether it is in effect, then the action and the label to apply it and to undo it. */
const ON_BACKEND = [
  { is: (one) => one.process === 'killed', do: ['kill', 'Kill'], undo: ['restart', 'Restart'], title: 'Kill its process: connections are refused' },
  { is: (one) => one.process === 'paused', do: ['pause', 'Pause'], undo: ['resume', 'Resume'], title: 'It accepts connections but never answers' },
  { is: (one) => one.slow, do: ['slow_down', 'Slow down'], undo: ['recover', 'Speed up'], title: 'It answers in 250 ms' },
  { is: (one) => one.failing, do: ['fail', 'Fail'], undo: ['repair', 'Repair'], title: 'It answers with errors, but its /health still passes' },
  { is: (one) => one.flapping, do: ['flap', 'Flap DNS'], undo: ['settle', 'Settle DNS'], title: 'Its address vanishes from DNS and reappears every second' },
];

const every = [['fast', 'every 0.5 s'], ['slow', 'every 5 s'], ['off', 'off']];
const paths = [['/health', '/health'], ['/', '/, like clients']];
const clients = [['many', 'many, one request each'], ['few', 'eight that return']];
const rates = [10, 30, 60, 100, 300].map((rate) => [String(rate), String(rate)]);

export class Controls {
  /** `act(action)` asks the server to do something. */
  constructor(act) {
    this.act = act;
    this.rows = new Map();
    this.list = h('ul', { class: 'hands' });
    this.add = this.button('Add a backend', () => ({ action: 'add' }));
    this.swap = this.button('Swap two addresses', () => ({ action: 'swap_addresses' }), 'The first two backends restart, each with the other’s address');
    this.settings = [
      this.select('Algorithm', (value) => ({ action: 'balance', algorithm: value }), (demo) => demo.algorithms.map((name) => [name, name]), (demo) => demo.balance),
      this.select('Compare with', (value) => ({ action: 'compare', algorithm: value || null }), (demo) => [['', 'nothing'], ...demo.algorithms.map((name) => [name, name])], (demo) => demo.compare ?? ''),
      this.select('Checks', (value) => ({ action: 'check_every', every: value }), () => every, (demo) => demo.check.every),
      this.select('Checks request', (value) => ({ action: 'check_path', path: value }), () => paths, (demo) => demo.check.path),
      this.select('Requests per second', (value) => ({ action: 'rate', per_second: Number(value) }), () => rates, (demo) => String(demo.traffic.rate)),
      this.select('Clients', (value) => ({ action: 'clients', kind: value }), () => clients, (demo) => demo.traffic.clients),
    ];
    this.element = h('div', { class: 'controls' },
      h('div', { class: 'settings', role: 'group', 'aria-label': 'Settings' }, ...this.settings.map((setting) => setting.element)),
      h('h3', {}, 'Backends'), this.list, h('div', { class: 'whole' }, this.add, this.swap));
  }

  /** A button that is disabled while its action is in progress. */
  button(text, action, title) {
    const button = h('button', { type: 'button', title, onclick: async () => {
      if (button.getAttribute('aria-disabled')) return;
      button.setAttribute('aria-disabled', 'true');
      await this.act(action());
      button.removeAttribute('aria-disabled');
    } }, text);
    return button;
  }

  select(label, action, options, now) {
    const field = h('select', { id: `set-${label.toLowerCase().replaceAll(' ', '-')}`, onchange: () => this.act(action(field.value)) });
    const update = (demo) => {
      const offered = options(demo);
      const value = now(demo);
      // A value that is set in another way, such as by an experiment.
      if (!offered.some(([one]) => one === value)) offered.unshift([value, value]);
      const key = offered.join();
      if (field.offered !== key) {
        field.offered = key;
        field.replaceChildren(...offered.map(([one, text]) => h('option', { value: one }, text)));
        field.value = value;
      }
      // While the list is open, the user is choosing.
      if (document.activeElement !== field || field.seen !== value) field.value = value;
      field.seen = value;
    };
    return { element: h('div', {}, h('label', { for: field.id }, label), field), update };
  }

  update(demo) {
    for (const setting of this.settings) setting.update(demo);
    const names = new Set(demo.backends.map((backend) => backend.name));
    for (const name of this.rows.keys()) if (!names.has(name)) this.rows.delete(name);
    arrange(this.list, demo.backends.map((backend) => this.row(backend)));
    show(this.add, demo.room > 0);
    show(this.swap, demo.backends.length > 1);
  }

  row(backend) {
    let row = this.rows.get(backend.name);
    if (!row) {
      row = { backend };
      row.name = h('b', {}, backend.name);
      row.done = h('span', { class: 'done' });
      row.buttons = ON_BACKEND.map((one) => this.button('', () => ({ action: one.is(row.backend) ? one.undo[0] : one.do[0], backend: row.backend.name }), one.title));
      row.remove = h('button', { type: 'button', 'aria-label': `Remove ${backend.name}`, title: 'Remove its address from DNS; open connections finish', onclick: () => this.leave(backend.name) }, 'Remove');
      row.element = h('li', { 'data-backend': backend.name }, h('span', { class: 'label' }, row.name, row.done), h('span', { class: 'row' }, ...row.buttons, row.remove));
      this.rows.set(backend.name, row);
    }
    row.backend = backend;
    ON_BACKEND.forEach((one, i) => {
      const is = one.is(backend);
      const word = is ? one.undo[1] : one.do[1];
      say(row.buttons[i], word);
      mark(row.buttons[i], 'aria-label', `${word} ${backend.name}`);
      mark(row.buttons[i], 'class', is ? 'pressed' : null);
    });
    say(row.done, backend.process === 'running' ? `${describe(backend)}, answers in ${backend.response_ms} ms` : describe(backend));
    return row.element;
  }

  /** Removes a backend. Its buttons go with it, so the focus needs another place. */
  async leave(name) {
    if (await this.act({ action: 'remove', backend: name })) this.add.focus();
  }
}

/** The actions in effect on a backend, as text with signs. */
export function describe(backend) {
  const words = [
    backend.process === 'killed' && `${sign('down')} killed`,
    backend.process === 'paused' && '‖ paused',
    backend.slow && '… slow',
    backend.failing && '! answers fail',
    backend.flapping && '~ DNS flaps',
  ];
  return words.filter(Boolean).join(', ') || 'runs';
}
