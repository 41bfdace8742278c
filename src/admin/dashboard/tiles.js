// The values of the whole process, at the top of the page.

import { Spark } from './chart.js';
import { h, mark, say } from './dom.js';
import { bytes, count, rate, times } from './format.js';
import { sign } from './states.js';

const sum = (status, figure) => status.pools.reduce((total, pool) => total + pool[figure], 0);
const backends = (status) => status.pools.flatMap((pool) => pool.backends);

const TILES = [
  { id: 'open', title: 'Open connections', value: (all) => count(all.totals.active), note: (status) => `of ${count(status.max_connections)} at most`, figure: 'active' },
  { id: 'rate', title: 'Connections/s', value: (all) => rate(all.connections.mean(3)), note: (status) => times(status.workers, 'worker'), figure: 'connections' },
  { id: 'in', title: 'Bytes/s from clients', value: (all) => bytes(all.bytes_in.mean(3)), figure: 'bytes_in' },
  { id: 'out', title: 'Bytes/s to clients', value: (all) => bytes(all.bytes_out.mean(3)), figure: 'bytes_out', hue: 1 },
  { id: 'backends', title: 'Backends in use', value: (_, status) => `${count(sum(status, 'up'))} / ${count(backends(status).length)}`, note: others, state: (status) => (sum(status, 'up') === 0 ? 'down' : null) },
  { id: 'masked', title: 'Retried', value: (_, status) => count(sum(status, 'failures_masked')), note: () => 'not visible to clients' },
  { id: 'seen', title: 'Client-visible failures', value: (_, status) => count(sum(status, 'failures_seen')), note: () => 'since the start', state: (status) => (status.problems?.some((problem) => problem.kind === 'client_failures') ? 'down' : null) },
];

/** The number of backends in each state other than up. */
function others(status) {
  const counts = new Map();
  for (const { state } of backends(status)) counts.set(state, (counts.get(state) ?? 0) + 1);
  counts.delete('up');
  return [...counts].map(([state, n]) => `${sign(state)} ${n} ${state}`).join(' ') || 'all are up';
}

export class Tiles {
  constructor(place) {
    this.tiles = TILES.map((tile) => {
      const [figure, note] = [h('dd', { class: 'value' }), h('dd', { class: 'note' })];
      const spark = tile.figure ? new Spark(tile.title) : null;
      const element = h('dl', { class: 'tile', 'data-tile': tile.id }, h('dt', {}, tile.title), figure, tile.note ? note : null, spark && h('dd', { class: 'holder' }, spark.canvas));
      place.append(element);
      return { tile, figure, note, spark, element };
    });
  }

  /** `all`: the values of the last seconds; `shown`: those that the charts show. */
  update(status, all, shown, view) {
    for (const { tile, figure, note, spark, element } of this.tiles) {
      say(figure, tile.value(all, status));
      if (tile.note) say(note, tile.note(status));
      mark(element, 'data-state', tile.state?.(status) ?? null);
      spark?.draw(shown[tile.figure], view, tile.hue ?? 0);
    }
  }
}
