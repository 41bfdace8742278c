// The symbols, severities and colors of states.

/** Each state's symbol, so that its color is not the only difference, and its severity. */
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

/** The state whose color an event has. */
export function tone(one) {
  if (one.kind === 'state_changed') return one.to;
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
