// The page: receives the server's events and shows them, at most once a frame.

import { ask, path } from './api.js';
import { askToken, changeBackend, showBackend, showKeys, weigh, whyClient, whyHere } from './dialogs.js';
import { arrange, forgetColors, h, mark, say } from './dom.js';
import { clock, span } from './format.js';
import { follow } from './link.js';
import { Changes, Decisions, Listeners } from './lists.js';
import { Playground } from './playground.js';
import { PoolSection } from './pool.js';
import { Problems } from './problems.js';
import { LIVE, RANGES, roundSpan } from './range.js';
import { Store } from './store.js';
import { Tiles } from './tiles.js';

/** The time between requests for the shadow algorithms, in milliseconds. */
const SHADOW = 5000;
/** The number of earlier events that are requested. */
const EVENTS = 1000;
/** The time until a failed request for the history is repeated, in milliseconds. */
const RETRY = 3000;
/** How long a message stays, in milliseconds. */
const MESSAGE = 8000;
const MESSAGE_WITH_UNDO = 20000;

const at = (id) => document.getElementById(id);
const store = new Store();
const sections = new Map();
const watchers = new Set();
const tiles = new Tiles(at('tiles'));
const problems = new Problems(at('problems'), at('problems-said'), at('icon'));
const listeners = new Listeners(at('listeners'));
const decisions = new Decisions(at('decisions'), at('paused'), whyHere);
const changes = new Changes(at('changes'));
const playground = new Playground(at('playground'), store, askToken);

// ---- rendering

let due = false;
function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    performance.mark('draw');
    render();
    performance.measure('render', 'draw');
    performance.clearMarks('draw');
    const measures = performance.getEntriesByName('render');
    if (measures.length > 100) performance.clearMeasures('render');
  });
}

function render() {
  const { status } = store;
  if (!status) return;
  say(at('version'), `v${status.version}`);
  showPhase(status);
  if (lost) problems.lose();
  else problems.update(status.problems ?? [], store.at);
  say(at('uptime'), `up ${span(status.uptime_seconds)}`);
  const progress = status.phase === 'draining' ? store.events.findLast((event) => event.kind === 'drain_progress') : null;
  say(at('drain'), progress?.sentence ?? '');
  playground.draw();
  const view = store.view();
  say(at('so-far'), view.length < store.range.length ? `charts: ${roundSpan(view.step * view.length)} so far` : '');
  tiles.update(status, store.track('process', ''), store.shown('process', ''), view);
  for (const pool of status.pools) {
    if (!sections.has(pool.name)) sections.set(pool.name, new PoolSection(pool.name, actions(pool.name)));
    sections.get(pool.name).update(pool, store);
  }
  for (const name of sections.keys()) if (!status.pools.some((pool) => pool.name === name)) sections.delete(name);
  arrange(at('pools'), problems.ordered(status.pools).map((pool) => sections.get(pool.name).element));
  listeners.update(status, store);
  decisions.update(store.decisions);
  changes.update(store.events);
  for (const watcher of watchers) if (!watcher()) watchers.delete(watcher);
}

/** An instance that does not answer may have stopped: its phase is unknown. */
function showPhase(status) {
  const ready = status.ready ? `● ${status.phase}` : `◐ ${status.phase === 'serving' ? 'not ready' : status.phase}`;
  say(at('phase'), lost ? '? unknown' : ready);
  mark(at('phase'), 'data-state', lost ? 'unknown' : status.ready ? 'up' : 'draining');
}

// ---- actions

/** The actions of the buttons of a pool's backends. */
function actions(pool) {
  return {
    open: (backend) => showBackend(pool, backend, store, (watcher) => watchers.add(watcher)),
    weigh: (backend) => weigh(backend, (weight) => send(pool, backend, weight)),
    async change(backend, state, place, buttons) {
      for (const button of buttons) button.setAttribute('aria-disabled', 'true');
      say(place, 'loading…');
      mark(place, 'class', 'asking');
      try {
        await send(pool, backend, state);
        say(place, '');
      } catch (refusal) {
        mark(place, 'class', 'asking refused');
        say(place, refusal.message);
        setTimeout(() => say(place, ''), 2 * MESSAGE);
      }
      for (const button of buttons) button.removeAttribute('aria-disabled');
    },
  };
}

/** Changes a backend, and offers to undo that; returns whether it is changed. */
async function send(pool, backend, wanted) {
  const now = await changeBackend(pool, backend, wanted);
  if (!now) return false;
  const before = SET_BY_OPERATORS.includes(backend.state) ? backend.state : 'up';
  const undo = wanted.state === undefined ? { weight: backend.weight } : { state: before };
  tell(`${now.name} is ${now.state}, weight ${now.weight}: ${now.cause}`, async () => {
    try {
      // The user may decide against it, as the last eligible backend would be taken out.
      if (await changeBackend(pool, backend, undo)) tell(`Undone: ${backend.name} is ${wanted.state === undefined ? `back at weight ${backend.weight}` : `as before (${before})`}.`);
    } catch (refusal) {
      tell(`This cannot be undone: ${refusal.message}`);
    }
  });
  return true;
}

/** The states that operators set; a backend in any other one is in service. */
const SET_BY_OPERATORS = ['draining', 'maintenance'];

/** Shows a message for a while, with a button that undoes what it tells. */
let gone;
function tell(text, undo) {
  const button = undo && h('button', { type: 'button', class: 'undo', onclick: () => {
    arrange(at('toast'), []);
    undo();
  } }, 'Undo');
  arrange(at('toast'), [h('span', {}, text), button].filter(Boolean));
  clearTimeout(gone);
  gone = setTimeout(() => arrange(at('toast'), []), undo ? MESSAGE_WITH_UNDO : MESSAGE);
}

// ---- events

/** Events that arrive while the earlier ones are requested wait here, so that all are added in order. */
let waiting = null;
/** When the server process of the last connection started. */
let process = null;

async function hello({ latest, demo, started }) {
  playground.set(demo);
  const first = process === null;
  const restarted = !first && started !== process;
  process = started;
  if (restarted) {
    store.restart();
    tell('The server was restarted.');
  }
  if (!first && !restarted) return; // the stream itself repeats the missed events
  waiting = [];
  try {
    const [told, history] = await Promise.all([ask(path(['journal'], { after: Math.max(0, latest - EVENTS), limit: EVENTS })), ask(path(['history']))]);
    for (const event of told?.events ?? []) store.takeEvent(event);
    early = history;
    addHistory();
  } catch {
    // The stream delivers later events anyway; without the history the charts would have a hole.
    setTimeout(fetchHistory, RETRY);
  }
  for (const event of waiting) store.takeEvent(event);
  waiting = null;
  draw();
}

async function fetchHistory() {
  early = await ask(path(['history'])).catch(() => null);
  if (!early) return void setTimeout(fetchHistory, RETRY);
  addHistory();
  return draw();
}

/** The requested history, until there is a status, which names the backends that it belongs to. */
let early = null;
function addHistory() {
  if (!early || !store.status) return;
  store.takeHistory(LIVE, early);
  early = null;
}

let lost = false;
follow('api/v1/events', {
  hello,
  status(status) {
    store.takeStatus(status);
    addHistory();
    draw();
  },
  decisions: ({ decisions: news }) => store.takeDecisions(news),
  event(event) {
    if (waiting) waiting.push(event);
    else if (store.takeEvent(event)) draw();
  },
  lagged: ({ missed }) => tell(`The server no longer keeps ${missed} earlier events.`),
  link(alive) {
    const link = at('link');
    document.documentElement.classList.toggle('lost', !alive);
    if (alive) {
      mark(link, 'data-link', 'live');
      say(link, lost ? '● live again' : '● live');
      if (lost) setTimeout(() => link.dataset.link === 'live' && say(link, '● live'), MESSAGE);
      lost = false;
    } else {
      lost = true;
      draw();
      mark(link, 'data-link', 'lost');
      say(link, store.at ? `✕ Connection lost, reconnecting… (last figures from ${clock(store.at)})` : '✕ No connection yet, reconnecting…');
    }
  },
});

// ---- the range of the charts

let fetching;
/** Shows another range of time in all charts. */
function showRange(range) {
  store.select(range);
  for (const button of at('ranges').children) mark(button, 'aria-pressed', String(button.range === range));
  localStorage.setItem('pointsman-range', range.id);
  clearTimeout(fetching);
  if (range !== LIVE) fetchRange(range);
  draw();
}

/** Fetches the values of a range, again and again while it is shown. */
async function fetchRange(range) {
  const history = await ask(path(['history'], { step: range.step })).catch(() => null); // the next one may succeed
  if (store.range !== range) return;
  if (history && store.status) store.takeHistory(range, history);
  draw();
  fetching = setTimeout(() => fetchRange(range), (store.status ? range.step : 1) * 1000);
}

at('ranges').append(...RANGES.map((range) => {
  const button = h('button', { type: 'button', title: `Charts over the last ${range.words}`, onclick: () => showRange(range) }, range.title);
  button.range = range;
  return button;
}));
showRange(RANGES.find(({ id }) => id === localStorage.getItem('pointsman-range')) ?? LIVE);

function nextRange() {
  showRange(RANGES[(RANGES.indexOf(store.range) + 1) % RANGES.length]);
}

async function lookAtShadows() {
  for (const { name, shadow } of store.status?.pools ?? []) {
    const told = shadow ? await ask(path(['pools', name, 'shadow'])).catch(() => null) : null;
    sections.get(name)?.tellShadow(told);
  }
  setTimeout(lookAtShadows, SHADOW);
}
setTimeout(lookAtShadows, 1500);

// ---- theme and keys

const THEMES = { auto: '◐', light: '☀', dark: '☾' };
function setTheme(theme) {
  const root = document.documentElement;
  if (theme === 'auto') delete root.dataset.theme;
  else root.dataset.theme = theme;
  say(at('theme'), THEMES[theme]);
  at('theme').setAttribute('aria-label', `Theme: ${theme === 'auto' ? 'system setting' : theme}`);
  localStorage.setItem('pointsman-theme', theme);
  forgetColors();
  draw();
}
function nextTheme() {
  const names = Object.keys(THEMES);
  const now = localStorage.getItem('pointsman-theme') ?? 'auto';
  setTheme(names[(names.indexOf(now) + 1) % names.length]);
}
const kept = localStorage.getItem('pointsman-theme');
setTheme(Object.hasOwn(THEMES, kept ?? '') ? kept : 'auto');
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  forgetColors();
  draw();
});

const KEYS = [
  ['?', 'show these keys', () => showKeys(KEYS)],
  ['j', 'go to the next backend', () => tableHere()?.step(1)],
  ['k', 'go to the previous backend', () => tableHere()?.step(-1)],
  ['d', 'drain the focused backend', () => press('draining')],
  ['r', 'enable it: put it back in service', () => press('up')],
  ['m', 'put it into maintenance', () => press('maintenance')],
  ['Enter', 'show its details, and why it gets no connections'],
  ['/', 'filter the backends', () => document.querySelector('.filter:not([hidden]) input')?.focus()],
  ['w', 'explain why a client was routed to its backend', whyClient],
  ['c', 'charts: five minutes, an hour, a day', nextRange],
  ['t', 'theme: light, dark, or the system setting', nextTheme],
  ['Escape', 'close a dialog'],
];

/** The table that has the focus, or the first. */
function tableHere() {
  const all = [...sections.values()];
  return (all.find((section) => section.element.contains(document.activeElement)) ?? all[0])?.table;
}

/** Requests another state of the backend that has the focus. */
function press(state) {
  for (const { table } of sections.values()) {
    const row = table.focused();
    if (row) table.setState(row, state);
  }
}

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest('input, select, textarea, dialog[open]')) return;
  const key = KEYS.find(([name]) => name === event.key);
  if (!key?.[2]) return;
  event.preventDefault();
  key[2]();
});

at('theme').addEventListener('click', nextTheme);
at('keys').addEventListener('click', () => showKeys(KEYS));
at('why').addEventListener('click', () => whyClient());
