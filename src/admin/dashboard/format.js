// Numbers and times in a readable form.

const few = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** Shown for a missing value. */
export const NONE = '–';

const lacks = (value) => value === null || value === undefined || Number.isNaN(value);

/** A count: 12,345. */
export const count = (value) => (lacks(value) ? NONE : whole.format(value));

/** A rate per second: 0, 0.4, 31, 1,204. */
export function rate(value) {
  if (lacks(value)) return NONE;
  return value < 10 ? few.format(value) : whole.format(value);
}

/** Bytes per second, or bytes: 812 B, 1.2 KiB. */
export function bytes(value) {
  if (lacks(value)) return NONE;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? whole.format(value) : few.format(value)} ${UNITS[unit]}`;
}
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Milliseconds: 0.15 ms, 12 ms, 1.3 s. */
export function millis(value) {
  if (lacks(value)) return NONE;
  if (value >= 1000) return `${few.format(value / 1000)} s`;
  if (value >= 100) return `${whole.format(value)} ms`;
  return `${value >= 10 ? few.format(value) : value.toFixed(2)} ms`;
}

/** The percentiles of a latency of the last minute. */
export const percentiles = ({ count: of, p50_ms, p90_ms, p99_ms }) =>
  `p50 ${millis(p50_ms)} · p90 ${millis(p90_ms)} · p99 ${millis(p99_ms)} (${times(of, 'connection')} of the last minute)`;

/** A length of time in seconds: 4 s, 3 min, 2 h 5 min, 6 d 3 h. */
export function span(seconds) {
  if (lacks(seconds)) return NONE;
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 10) return `${minutes} min ${s % 60} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A time in seconds since the epoch as local time: 14:02:11; with its day if that is not today. */
export function clock(at) {
  if (lacks(at)) return NONE;
  const date = new Date(at * 1000);
  const time = date.toTimeString().slice(0, 8);
  return date.toDateString() === new Date().toDateString()
    ? time
    : `${date.toLocaleDateString('en', { day: 'numeric', month: 'short' })} ${time}`;
}

/** Part of a whole, from 0 to 1: 33 %. */
export function percent(part) {
  if (lacks(part)) return NONE;
  const hundred = part * 100;
  return `${hundred > 0 && hundred < 9.95 ? hundred.toFixed(1) : Math.round(hundred)} %`;
}

/** `n` of something: 1 backend, 3 backends. */
export const times = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
