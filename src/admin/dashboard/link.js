// The stream of events. A browser reconnects a broken stream by itself. This module also reports a lost stream,
// detects a silent one, and reconnects after a refusal by the server.

const SILENCE = 4000; // a status comes each second
const AGAIN = 1500;
const KINDS = ['hello', 'status', 'decisions', 'event', 'lagged'];

/** Follows `url`. Calls `on[kind](data)` for each event, and `on.link(alive)` when the stream is lost or back. */
export function follow(url, on) {
  let source;
  let heard = Date.now();
  let alive = null;
  let due = null;

  const set = (now) => {
    if (alive !== now) on.link((alive = now));
  };
  const open = () => {
    due = null;
    source?.close();
    heard = Date.now();
    source = new EventSource(url);
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        heard = Date.now();
        on[kind]?.(JSON.parse(event.data));
        if (kind === 'status') set(true);
      });
    }
    source.addEventListener('error', () => {
      set(false);
      if (source.readyState === EventSource.CLOSED) due ??= setTimeout(open, AGAIN);
    });
  };
  setInterval(() => {
    if (Date.now() - heard < SILENCE) return;
    set(false);
    if (source.readyState === EventSource.OPEN || Date.now() - heard > 2 * SILENCE) due ??= setTimeout(open, 0);
  }, 500);
  open();
}
