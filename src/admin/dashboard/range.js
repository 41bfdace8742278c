// The ranges of time that the charts can show: the server keeps values by these steps.

/** `step` in seconds; `length`: the number of steps. */
export const RANGES = [
  { id: '5m', title: '5 min', words: 'five minutes', step: 1, length: 300 },
  { id: '1h', title: '1 h', words: 'an hour', step: 10, length: 360 },
  { id: '24h', title: '24 h', words: 'a day', step: 60, length: 1440 },
];

/** The range whose values arrive with each status. */
export const LIVE = RANGES[0];

/** The numbers of steps that a chart may show: it fits the time since the start, and does not change its scale each second. */
const LENGTHS = [60, 120, 180, 240, 300, 360, 720, 1440];

/**
 * The part of a range that has values: `end` is its last step, `length` the number of its steps. `seconds` of it have
 * values.
 */
export function viewOf(range, end, seconds) {
  const needed = Math.min(range.length, seconds / range.step);
  return { step: range.step, end, length: LENGTHS.find((length) => length >= needed) ?? range.length };
}

/** A round length of time: 30 s, 5 min, 2 h. */
export function roundSpan(seconds) {
  if (seconds < 60) return `${seconds} s`;
  return seconds < 3600 ? `${seconds / 60} min` : `${seconds / 3600} h`;
}

const TICKS = [10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600];
const MOST_TICKS = 4;

/** The times before the end, in seconds, that a chart names. */
export function ticks({ step, length }) {
  const whole = step * length;
  const tick = TICKS.find((one) => whole / one <= MOST_TICKS + 1) ?? whole;
  return Array.from({ length: Math.ceil(whole / tick) - 1 }, (_, i) => (i + 1) * tick);
}
