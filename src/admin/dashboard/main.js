// The page: receives the server's events and shows them, at most once a frame.

import { ask, change, path } from './api.js';
import { askToken, backendPath, showBackend, showKeys, weigh, whyClient, whyHere } from './dialogs.js';
import { arrange, forgetColours, mark, say } from './dom.js';
import { clock, span } from './format.js';
import { follow } from './link.js';
import { Changes, Decisions, Listeners } from './lists.js';
import { Playground } from './playground.js';
import { PoolSection } from './pool.js';
import { Problems } from './problems.js';
import { Store } from './store.js';
import { Tiles } from './tiles.js';

/** The time between requests for the shadow algorithms, in milliseconds. */
const SHADOW = 5000;
/** The number of earlier events that are requested. */
const EVENTS = 1000;
/** How long a message stays, in milliseconds. */
const MESSAGE = 8000;

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
  playground.draw();
  const end = Math.floor(store.at);
  tiles.update(status, store.track('process', ''), end);
  for (const pool of status.pools) {
    if (!sections.has(pool.name)) sections.set(pool.name, new PoolSection(pool.name, actions(pool.name)));
    sections.get(pool.name).update(pool, store);
  }
  for (const name of sections.keys()) if (!status.pools.some((pool) => pool.name === name)) sections.delete(name);
  arrange(at('pools'), problems.ordered(status.pools).map((pool) => sections.get(pool.name).element));
  listeners.update(status, store, end);
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
    weigh: (backend) => weigh(pool, backend),
    async change(backend, state, place, buttons) {
      for (const button of buttons) button.setAttribute('aria-disabled', 'true');
      say(place, 'loading…');
      mark(place, 'class', 'asking');
      try {
        const now = await change('PATCH', backendPath(pool, backend), state, askToken);
        say(place, '');
        tell(`${now.name} is ${now.state}: ${now.cause}`);
      } catch (refusal) {
        mark(place, 'class', 'asking refused');
        say(place, refusal.message);
        setTimeout(() => say(place, ''), 2 * MESSAGE);
      }
      for (const button of buttons) button.removeAttribute('aria-disabled');
    },
  };
}

let gone;
function tell(text) {
  say(at('toast'), text);
  clearTimeout(gone);
  gone = setTimeout(() => say(at('toast'), ''), MESSAGE);
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
    // The stream delivers later events anyway.
  }
  for (const event of waiting) store.takeEvent(event);
  waiting = null;
  draw();
}

/** The history that was requested, until there is a status, which tells the backends that it belongs to. */
let early = null;
function addHistory() {
  if (!early || !store.status) return;
  store.takeHistory(early);
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
  lagged: ({ missed }) => tell(`${missed} earlier events are not kept by the server any longer.`),
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
  at('theme').setAttribute('aria-label', `Theme: ${theme === 'auto' ? 'as the system has it' : theme}`);
  localStorage.setItem('pointsman-theme', theme);
  forgetColours();
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
  forgetColours();
  draw();
});

const KEYS = [
  ['?', 'these keys', () => showKeys(KEYS)],
  ['j', 'the next backend', () => tableHere()?.step(1)],
  ['k', 'the backend before', () => tableHere()?.step(-1)],
  ['d', 'drain the backend that has the focus', () => press('draining')],
  ['r', 'return it', () => press('up')],
  ['m', 'maintenance for it', () => press('maintenance')],
  ['Enter', 'details of it, and why it gets no connections'],
  ['/', 'filter the backends', () => document.querySelector('.filter:not([hidden]) input')?.focus()],
  ['w', 'why did a client go where it went?', whyClient],
  ['t', 'light, dark, or as the system has it', nextTheme],
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
