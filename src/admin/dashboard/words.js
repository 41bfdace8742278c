// States, decisions and facts, told in words.

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

const BY = { nobody: 'nobody', primaries: 'the primaries', backups: 'the backups', all: 'all backends, up or not (panic)' };

/** A fact, as a sentence. */
export function fact(one) {
  switch (one.kind) {
    case 'state':
      return one.from === one.to
        ? `${one.backend} is ${one.to}: ${one.cause}`
        : `${one.backend} is ${one.to} (was ${one.from}): ${one.cause}`;
    case 'named':
      return `${one.address} is called ${one.backend}`;
    case 'weight':
      return `${one.backend} has the weight ${one.weight}`;
    case 'spared':
      return `${one.backend} was not ejected, as too many are out already: ${one.cause}`;
    case 'service':
      return `${BY[one.by] ?? one.by} ${one.by === 'primaries' || one.by === 'backups' || one.by === 'all' ? 'serve' : 'serves'} the clients of ${one.pool}; ${one.up} up, ${one.used} used`;
    case 'answers':
      return one.trouble
        ? `${one.source} of ${one.pool} answers ${one.trouble.result}: ${one.trouble.reason}`
        : `${one.source} of ${one.pool} answers with backends again`;
    case 'no_result':
      return `a check of ${one.backend} has no result: ${one.error}`;
    case 'checks_late':
      return `checks of ${one.pool} run late: the first waited ${millis(one.waited_ms)} for its turn (runtime.max_checks limits them)`;
    case 'checks_on_time':
      return `checks of ${one.pool} are on time again: ${times(one.checks, 'check')} ran late, for ${millis(one.after_ms)}`;
    case 'operator': {
      const wants = [one.state && `to be ${one.state}`, one.weight !== null && one.weight !== undefined && `to have the weight ${one.weight}`];
      return `${one.who} wants ${one.backend} ${wants.filter(Boolean).join(' and ')}`;
    }
    case 'added':
      return `${one.who} adds ${one.backend} at ${one.address}, weight ${one.weight}${one.backup ? ', as a backup' : ''}`;
    case 'removed':
      return `${one.who} takes ${one.backend} at ${one.address} away`;
    case 'check':
      return one.passed ? `the ${one.check} check of ${one.backend} passes` : `the ${one.check} check of ${one.backend} fails: ${one.error}`;
    case 'discovered': {
      const found = [one.new?.length && `new: ${one.new.join(', ')}`, one.missing?.length && `missing: ${one.missing.join(', ')}`];
      return [`${one.source} names ${times(one.backends, 'backend')}`, ...found].filter(Boolean).join('; ');
    }
    case 'ended':
      return `${one.who} ends connection ${one.conn} of ${one.client} to ${one.backend ?? 'nobody'} (${one.how})`;
    case 'checked':
      return `${one.who} has ${one.backend ?? (one.pool ? 'its backends' : 'all backends')} checked now`;
    case 'reloaded': {
      const restart = one.restart?.length ? `; a restart is needed for ${one.restart.join(', ')}` : '';
      return `${one.who} has ${one.config} read again: ${times(one.listeners, 'listener')}, ${times(one.pools, 'pool')}${restart}`;
    }
    case 'not_reloaded': {
      const places = (one.problems ?? []).map(({ line, column, message }) => [line, column, ` ${message}`].filter((part) => part !== null).join(':'));
      return `${one.config} was not taken, and nothing has changed: ${places.join('; ')}`;
    }
    case 'drain_started':
      return `${one.who} has the process drain: ${times(one.open, 'open connection')}, at most ${millis(one.timeout_ms)}`;
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

/** A fact of a kind that this page does not know yet: all that it says. */
function told(one) {
  const parts = Object.entries(one).filter(([name, value]) => !['id', 'at', 'kind'].includes(name) && value !== null);
  const text = (value) => (typeof value === 'object' ? JSON.stringify(value) : String(value));
  return `${one.kind.replaceAll('_', ' ')}: ${parts.map(([name, value]) => `${name} ${text(value)}`).join(', ')}`;
}

/** How grave a fact is: the state that its colour is taken from. */
export function tone(one) {
  if (one.kind === 'state') return one.to;
  if (one.kind === 'reload') return one.applied ? 'joining' : 'down';
  if (one.kind === 'not_reloaded') return 'down';
  if (one.kind.startsWith('drain')) return 'draining';
  if (one.kind === 'check') return one.passed ? 'up' : 'ejected';
  if (one.kind === 'operator') return 'maintenance';
  if (one.kind === 'answers') return one.trouble ? 'ejected' : 'up';
  if (one.kind === 'service') return one.by === 'primaries' ? 'up' : one.by === 'nobody' ? 'down' : 'ejected';
  if (one.kind === 'spared' || one.kind === 'no_result' || one.kind === 'checks_late') return 'ejected';
  if (one.kind === 'checks_on_time') return 'up';
  return 'joining';
}
