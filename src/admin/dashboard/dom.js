// Functions that change the document. Names come from DNS and from containers, so they are inserted as text, never as
// markup.

/** An element with properties (`class`, `on…` handlers, attributes) and children: elements or text. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same for an element of a picture. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map(shown));
  return element;
}

/**
 * Replaces characters that only change how other text is shown, such as bidirectional controls: a name or a cause
 * must not reorder its line.
 */
function shown(text) {
  return typeof text === 'string' ? text.replace(/[\p{Cf}\p{Zl}\p{Zp}]/gu, '\ufffd') : text;
}

/** Sets an element's text if it differs, so that unchanged text costs nothing. */
export function say(element, text) {
  if (element.said !== text) {
    element.said = text;
    element.textContent = shown(text);
  }
}

/** The characters at the end of a long name that are always shown: names of containers differ there. */
const TAIL = 8;

/** Sets an element's text to a name, which is cut in the middle where it does not fit. */
export function sayName(element, name) {
  if (element.said === name) return;
  element.said = name;
  const letters = [...name];
  const cut = letters.length > 2 * TAIL;
  element.classList.toggle('cut', cut);
  element.replaceChildren(...(cut
    ? [h('span', {}, letters.slice(0, -TAIL).join('')), h('span', {}, letters.slice(-TAIL).join(''))]
    : [shown(name)]));
  mark(element, 'title', cut ? name : null);
}

/** Sets an attribute if it differs; `null` removes it. */
export function mark(element, name, value) {
  const marks = (element.marks ??= {});
  if (marks[name] === value) return;
  marks[name] = value;
  if (value === null || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? '' : value);
}

/** Shows an element or hides it. */
export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

/** Makes `parent` have exactly these children in this order, moving as few as possible. */
export function arrange(parent, children) {
  let at = parent.firstElementChild;
  for (const child of children) {
    if (child === at) at = at.nextElementSibling;
    else if (parent.moveBefore && child.parentNode === parent) parent.moveBefore(child, at); // keeps the focus
    else parent.insertBefore(child, at);
  }
  while (at) {
    const next = at.nextElementSibling;
    at.remove();
    at = next;
  }
}

/** The current value of a color of the style sheet, for a canvas. */
export function color(name) {
  const known = colors.get(name);
  if (known) return known;
  probe ??= document.body.appendChild(h('span', { hidden: true }));
  probe.style.color = `var(--${name})`;
  const value = getComputedStyle(probe).color;
  colors.set(name, value);
  return value;
}

/** Discards the cached colors after a change of the theme. */
export function forgetColors() {
  colors.clear();
}

const colors = new Map();
let probe;
