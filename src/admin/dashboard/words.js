// States, decisions and events in words.

import { millis, times } from './format.js';

/** Each state's sign, so that none is told by its colour alone, and how bad it is. */
export const STATES = {
  down: { sign: '✕', rank: 0 },
  ejected: { sign: '▲', rank: 1 },
  joining: { sign: '○', rank: 2 },
  draining: { sign: '◐', rank: 3 },
  maintenance: { sign: '■', rank: 4 },
  gone: { sign: '–', rank: 5 },
  up: { sign: '●', rank: 6 },
};

export const sign = (state) => STATES[state]?.sign ?? '?';
export const rank = (state) => STATES[state]?.rank ?? 0;

const WHY = {
  'round-robin': 'its turn',
  weighted: 'its turn by weight',
  'least-connections': 'fewest connections for its weight',
  'random-two': 'the less busy of two drawn at random',
  ewma: 'of two drawn at random, the one that answers sooner for its load',
  'source-hash': 'by the hash of the client’s address',
  'ring-hash': 'the client’s place on the ring',
  maglev: 'the client’s place in the table',
};

/** Why an algorithm took whom it took. */
export const because = (algorithm) => WHY[algorithm] ?? algorithm;

/** A decision: who went where and why, in parts. */
export function decision(one) {
  const tried = one.attempts > 1 ? `attempt ${one.attempts}` : '';
  if (one.backend === null) {
    const failed = one.attempts > 0 ? `${times(one.attempts, 'attempt')} failed` : 'no backend could be chosen';
    return { to: 'nobody', why: failed, over: one.skipped };
  }
  const why = [because(one.algorithm), tried].filter(Boolean).join(', ');
  return { to: one.backend, why, over: one.skipped };
}

const TIER = { none: 'no backend', primaries: 'the primaries', backups: 'the backups', all: 'all backends, up or not (panic)' };

const names = (endpoints) => endpoints.map(({ name, address }) => `${name} (${address})`).join(', ');

/** An event, as a sentence. */
export function sentence(one) {
  switch (one.kind) {
    case 'state_changed':
      return one.from === one.to
        ? `${one.backend} is ${one.to}: ${one.cause}`
        : `${one.backend} is ${one.to} (was ${one.from}): ${one.cause}`;
    case 'backend_named':
      return `${one.address} is called ${one.backend}`;
    case 'weight_changed':
      return `${one.backend} has the weight ${one.weight}`;
    case 'ejection_suppressed':
      return `${one.backend} was not ejected, as too many are out already: ${one.cause}`;
    case 'serving_tier_changed':
      return `${TIER[one.tier] ?? one.tier} ${one.tier === 'primaries' || one.tier === 'backups' || one.tier === 'all' ? 'serve' : 'serves'} the clients of ${one.pool}; ${one.up} up, ${one.used} used`;
    case 'resolver_status_changed':
      return one.trouble
        ? `${one.source} of ${one.pool} answers ${one.trouble.result}: ${one.trouble.reason}`
        : `${one.source} of ${one.pool} answers with backends again`;
    case 'check_inconclusive':
      return `a check of ${one.backend} has no result: ${one.error}`;
    case 'checks_late':
      return `checks of ${one.pool} run late: the first waited ${millis(one.waited_ms)} for its turn (runtime.max_checks limits them)`;
    case 'checks_on_time':
      return `checks of ${one.pool} are on time again: ${times(one.checks, 'check')} ran late, for ${millis(one.after_ms)}`;
    case 'operator_change': {
      const wants = [one.state && `to be ${one.state}`, one.weight !== null && one.weight !== undefined && `to have the weight ${one.weight}`];
      return `${one.by} wants ${one.backend} ${wants.filter(Boolean).join(' and ')}`;
    }
    case 'backend_added':
      return `${one.by} adds ${one.backend} at ${one.address}, weight ${one.weight}${one.backup ? ', as a backup' : ''}`;
    case 'backend_removed':
      return `${one.by} takes ${one.backend} at ${one.address} away`;
    case 'check_result_changed':
      return one.passed ? `the ${one.check} check of ${one.backend} passes` : `the ${one.check} check of ${one.backend} fails: ${one.error}`;
    case 'endpoints_changed': {
      const found = [one.new?.length && `new: ${names(one.new)}`, one.missing?.length && `missing: ${names(one.missing)}`];
      return [`${one.source} names ${times(one.backends, 'backend')}`, ...found].filter(Boolean).join('; ');
    }
    case 'connection_closed':
      return `${one.by} ends connection ${one.conn} of ${one.client} to ${one.backend ?? 'nobody'} (${one.how})`;
    case 'check_requested':
      return `${one.by} has ${one.backend ?? (one.pool ? 'its backends' : 'all backends')} checked now`;
    case 'reload_applied': {
      const restart = one.restart?.length ? `; a restart is needed for ${one.restart.join(', ')}` : '';
      return `${one.by} has ${one.config} read again: ${times(one.listeners, 'listener')}, ${times(one.pools, 'pool')}${restart}`;
    }
    case 'reload_refused': {
      const places = (one.problems ?? []).map(({ line, column, message }) => [line, column, ` ${message}`].filter((part) => part !== null).join(':'));
      return `${one.config} was not taken, and nothing has changed: ${places.join('; ')}`;
    }
    case 'drain_started':
      return `${one.by} has the process drain: ${times(one.open, 'open connection')}, at most ${millis(one.timeout_ms)}`;
    case 'drain_progress':
      return `draining: ${times(one.open, 'open connection')}, ${millis(one.time_left_ms)} left`;
    case 'drain_done':
      return one.cut === null ? 'the drain is done: nobody was cut off' : `the drain is done: ${times(one.cut, 'connection')} cut off`;
    case 'reload':
      return one.applied ? `the configuration ${one.config} was read again and holds` : `the configuration ${one.config} was refused: ${one.error}`;
    default:
      return told(one);
  }
}

/** An event of a kind that this page does not know yet: all that it says. */
function told(one) {
  const parts = Object.entries(one).filter(([name, value]) => !['id', 'at', 'kind'].includes(name) && value !== null);
  const text = (value) => (typeof value === 'object' ? JSON.stringify(value) : String(value));
  return `${one.kind.replaceAll('_', ' ')}: ${parts.map(([name, value]) => `${name} ${text(value)}`).join(', ')}`;
}

/** How grave an event is: the state that its colour is taken from. */
export function tone(one) {
  if (one.kind === 'state_changed') return one.to;
  if (one.kind === 'reload') return one.applied ? 'joining' : 'down';
  if (one.kind === 'reload_refused') return 'down';
  if (one.kind.startsWith('drain')) return 'draining';
  if (one.kind === 'check_result_changed') return one.passed ? 'up' : 'ejected';
  if (one.kind === 'operator_change') return 'maintenance';
  if (one.kind === 'resolver_status_changed') return one.trouble ? 'ejected' : 'up';
  if (one.kind === 'serving_tier_changed') return one.tier === 'primaries' ? 'up' : one.tier === 'none' ? 'down' : 'ejected';
  if (one.kind === 'ejection_suppressed' || one.kind === 'check_inconclusive' || one.kind === 'checks_late') return 'ejected';
  if (one.kind === 'checks_on_time') return 'up';
  return 'joining';
}
