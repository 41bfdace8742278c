// The playground of `pointsman demo`: a live picture of the connections, and controls that change the scene. It is shown only
// if the server says that it is a demo.

import { change, get } from './api.js';
import { Controls } from './controls.js';
import { arrange, h, mark, say, show } from './dom.js';
import { Picture } from './picture.js';
import { Clients, Scores } from './scores.js';

/** The time between requests for the state of the demo, in milliseconds. */
const EVERY = 1000;

export class Playground {
  constructor(place, store, askToken) {
    this.place = place;
    this.store = store;
    this.askToken = askToken;
    this.demo = null;
    this.pictures = new Map();
  }

  /** Shows the playground, or hides it. */
  set(demo) {
    show(this.place, Boolean(demo));
    clearInterval(this.timer);
    if (!demo) return;
    if (!this.caption) this.build();
    this.timer = setInterval(() => this.look(), EVERY);
    this.look();
  }

  build() {
    this.caption = h('p', { class: 'caption', role: 'status', 'aria-live': 'polite' });
    this.said = h('p', { class: 'said', role: 'alert' });
    this.stage = h('div', { class: 'stages' });
    this.scores = new Scores();
    this.clients = new Clients();
    this.story = h('button', { type: 'button', class: 'first', onclick: () => this.act(this.demo?.playing ? { action: 'stop' } : { action: 'play', script: 'story' }) });
    this.over = h('button', { type: 'button', onclick: () => this.act({ action: 'reset' }) }, 'Start over');
    this.controls = new Controls((action) => this.act(action));
    this.experiments = h('ul', { class: 'experiments' });
    this.place.append(
      h('div', { class: 'head' }, h('h2', { id: 'playground-title' }, 'Playground'), h('div', { class: 'buttons' }, this.story, this.over)),
      this.caption, this.said, this.stage, this.scores.element, this.clients.element, this.controls.element,
      h('h3', {}, 'Try this'), this.experiments);
  }

  /** Requests the state. A lost connection is reported by the page's link. */
  async look() {
    const asked = (this.asked = (this.asked ?? 0) + 1);
    const demo = await get('demo/state').catch(() => null);
    // A later action may have brought a newer state.
    if (demo && asked === this.asked) this.take(demo);
  }

  /** Requests an action. Returns whether it was carried out. */
  async act(action) {
    this.asked = (this.asked ?? 0) + 1;
    try {
      this.take(await change('POST', 'demo/actions', action, this.askToken));
      say(this.said, '');
      return true;
    } catch (refusal) {
      say(this.said, refusal.message);
      return false;
    }
  }

  take(demo) {
    this.demo = demo;
    say(this.caption, demo.caption);
    say(this.story, demo.playing ? '■ Stop the script' : '▶ Play the story');
    this.scores.update(demo);
    this.clients.update(demo);
    this.controls.update(demo);
    this.offer(demo);
    this.draw();
  }

  /** The experiments, each a button and what to watch. */
  offer(demo) {
    if (this.experiments.children.length === 0) {
      arrange(this.experiments, demo.scripts.filter(({ id }) => id !== 'story').map(({ id, title, text }) => h('li', {},
        h('button', { type: 'button', 'data-script': id, 'aria-describedby': `try-${id}`, onclick: () => this.play(id) }, title),
        h('p', { id: `try-${id}` }, text))));
    }
    for (const button of this.experiments.querySelectorAll('button')) mark(button, 'aria-current', button.dataset.script === demo.playing ? 'true' : null);
  }

  /** Starts an experiment, and shows where its effect is to be seen. */
  play(script) {
    this.act({ action: 'play', script });
    this.place.scrollIntoView({ block: 'start' });
  }

  /** Draws a picture of each pool. */
  draw() {
    const { demo, store } = this;
    if (!demo || !store.status || this.place.hidden) return;
    const pictures = demo.sides.map((side) => {
      let picture = this.pictures.get(side.pool);
      if (!picture) this.pictures.set(side.pool, (picture = new Picture(side.pool)));
      picture.update(store, demo, side);
      return picture.element;
    });
    for (const pool of this.pictures.keys()) if (!demo.sides.some((side) => side.pool === pool)) this.pictures.delete(pool);
    arrange(this.stage, pictures);
    mark(this.stage, 'class', pictures.length > 1 ? 'stages two' : 'stages');
  }
}
