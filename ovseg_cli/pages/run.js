
(() => {
const at = id => document.getElementById(id);
const {classes, pictures, bases, eight} = JSON.parse(at('index').textContent);
const [NAME, ADDRESS, WIDTH, HEIGHT, MARGIN, FILES, SHARES, REMARK] = [0, 1, 2, 3, 4, 5, 6, 7];
const GREY = [150, 150, 150];
const DARK = [0, 0, 0, 200];  // of what is not the class that is drawn alone
const shown = classes.map(() => true);
let only = null;  // the one class that is drawn, whatever is ticked
let listed = [];  // the places of the pictures that are listed, in their order
const percent = share => share > 0 && share < .001 ? '< 0.1 %' : (100 * share).toFixed(1) + ' %';
const counted = value => value.toLocaleString('en');
const make = (tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};

// ------------------------------------------------------------------ label maps: PNGs whose palette is written anew

const CHECKS = Uint32Array.from({length: 256}, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
const bytesOf = base64 => Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));

function labelsOf(place) {
  const [, png, own] = at('p' + place).textContent.split(' ');
  if (png === '-') return null;
  const bytes = bytesOf(png), view = new DataView(bytes.buffer), chunks = {};
  for (let start = 8; start < bytes.length; start += view.getUint32(start) + 12) {
    chunks[String.fromCharCode(...bytes.subarray(start + 4, start + 8))] = start;
  }
  return {bytes, view, chunks, classes: own === '-' ? [] : own.split(',').map(Number)};
}

function painted(labels, colourOf) {  // colourOf(i): red, green, blue, alpha of the index i
  const {bytes, view, chunks} = labels;
  const colours = view.getUint32(chunks.PLTE) / 3, alphas = view.getUint32(chunks.tRNS);
  for (let i = 0; i < colours; i++) {
    const [red, green, blue, alpha] = colourOf(i);
    bytes.set([red, green, blue], chunks.PLTE + 8 + 3 * i);
    if (i < alphas) bytes[chunks.tRNS + 8 + i] = alpha;
  }
  for (const start of [chunks.PLTE, chunks.tRNS]) {
    const end = start + 8 + view.getUint32(start);
    let sum = 0xffffffff;
    for (let i = start + 4; i < end; i++) sum = CHECKS[(sum ^ bytes[i]) & 255] ^ (sum >>> 8);
    view.setUint32(end, (sum ^ 0xffffffff) >>> 0);
  }
  return new Blob([bytes], {type: 'image/png'});
}

let colours = classes.map(one => one.colour);
const isShown = number => only === null ? shown[number] : only === number;
function chooseColours() {
  if (at('colours').value === 'eight') {
    const drawn = classes.map((_, number) => number).filter(number => number > 0 && isShown(number));
    drawn.sort((a, b) => classes[b].share - classes[a].share);
    colours = classes.map(() => GREY);
    drawn.slice(0, eight.length).forEach((number, place) => { colours[number] = eight[place]; });
  } else {
    colours = classes.map(one => one.colour);
  }
  for (const swatch of document.querySelectorAll('.swatch[data-class]')) {
    swatch.style.background = `rgb(${colours[swatch.dataset.class].join(' ')})`;
  }
}
function drawnColour(labels, outlines) {
  return i => {
    const number = i && labels.classes[(i - 1) >> 1];
    if (!i || !isShown(number)) return only === null ? [0, 0, 0, 0] : DARK;
    const colour = colours[number];
    return i % 2 || !outlines ? [...colour, 255] : [...colour.map(part => Math.round(part * .3 + 178)), 255];
  };
}
function draw(image, labels) {
  const old = image.src;
  image.src = URL.createObjectURL(painted(labels, drawnColour(labels, at('outlines').checked)));
  if (old.startsWith('blob:')) URL.revokeObjectURL(old);
}

// -------------------------------------------------------------------------------------------------------- the gallery

const gallery = at('gallery');
const filled = new Map();  // card: its labels and the picture that shows them
const captionOf = picture => {
  const found = picture[SHARES].filter(([number]) => number > 0);
  const most = found.slice(0, 3).map(([number, share]) => `${classes[number].name} ${percent(share)}`);
  if (found.length > 3) most.push(`and ${found.length - 3} more`);
  const margin = picture[MARGIN] === null ? '' : `margin ${picture[MARGIN].toFixed(3)}; `;
  return margin + (most.join(', ') || 'only background');
};
const AT_ONCE = 1000;  // cards that are added to the page: with all of 10,000 in it, browsers scroll in jerks
const cards = [];
let added = 0;
function cardOf(place) {
  if (cards[place]) return cards[place];
  const picture = pictures[place];
  const card = make('li'), button = make('button'), caption = make('p', 'small', captionOf(picture));
  caption.id = 'c' + place;
  button.type = 'button';
  button.tabIndex = -1;
  button.title = picture[NAME];
  button.setAttribute('aria-describedby', caption.id);
  button.append(make('span', 'picture'), make('span', 'name', picture[NAME]));
  card.place = place;
  card.append(button, caption);
  cards[place] = card;
  watcher.observe(card);
  return card;
}
const pictureSource = place => {
  const jpeg = at('p' + place).textContent.split(' ', 1)[0];
  return jpeg === '-' ? '' : 'data:image/jpeg;base64,' + jpeg;
};
function picture(source, name) {
  const image = make('img', name);
  image.alt = '';
  image.decoding = 'async';
  if (source) image.src = source;
  return image;
}
function fill(card) {
  if (filled.has(card)) return;
  const frame = card.querySelector('.picture'), source = pictureSource(card.place), labels = labelsOf(card.place);
  if (source) frame.append(picture(source));
  const image = labels && picture('', 'labels');
  filled.set(card, {labels, image});
  if (!labels) return;
  draw(image, labels);
  frame.append(image);
}
function empty(card) {
  const {image} = filled.get(card) || {};
  if (image) {
    const old = image.src;
    image.removeAttribute('src');  // it may be loading still
    URL.revokeObjectURL(old);
  }
  card.querySelector('.picture').replaceChildren();
  filled.delete(card);
}
const watcher = new IntersectionObserver(
  seen => { for (const one of seen) one.isIntersecting ? fill(one.target) : empty(one.target); },
  {rootMargin: '700px 0px'},
);
function add(until) {
  const end = Math.min(listed.length, Math.ceil(until / AT_ONCE) * AT_ONCE);
  if (end > added) gallery.append(...listed.slice(added, end).map(cardOf));
  added = Math.max(added, end);
  const some = added < listed.length;
  at('more').hidden = !some;
  at('more').textContent = `Show ${Math.min(AT_ONCE, listed.length - added)} more`;
  at('count').textContent = `${counted(listed.length)} of ${counted(pictures.length)} pictures`
    + (some ? `; the first ${counted(added)} are below` : '');
}
at('more').addEventListener('click', () => {
  const first = listed[added];
  add(added + 1);
  cardOf(first).firstChild.focus();
});
function focusOn(place) {
  const order = listed.indexOf(place);
  if (order < 0) return;
  add(order + 1);
  cardOf(place).firstChild.focus();
}

function repaint() {
  chooseColours();
  for (const {labels, image} of filled.values()) if (labels) draw(image, labels);
  if (at('view').open) drawView();
}

const shareOf = (place, number) => (pictures[place][SHARES].find(([own]) => own === number) || [0, 0])[1];
const sharesShown = place => pictures[place][SHARES].reduce((all, [own, share]) => all + (own && shown[own] ? share : 0), 0);
function list() {
  const words = at('search').value.trim().toLowerCase(), wanted = at('filter').value, order = at('sort').value;
  listed = pictures.map((_, place) => place).filter(place => {
    const own = pictures[place];
    if (words && !own[NAME].toLowerCase().includes(words)) return false;
    if (wanted === 'all') return true;
    if (wanted === 'none') return !own[SHARES].some(([number]) => number > 0);
    if (wanted === 'remark') return own[REMARK] !== '';
    return shareOf(place, Number(wanted)) > 0;
  });
  const one = /^\d+$/.test(wanted) ? Number(wanted) : null;
  if (order === 'share') {
    const shares = new Map(listed.map(place => [place, one === null ? sharesShown(place) : shareOf(place, one)]));
    listed.sort((a, b) => shares.get(b) - shares.get(a) || a - b);
  } else if (order === 'margin') {
    const margin = place => pictures[place][MARGIN] ?? Infinity;
    listed.sort((a, b) => margin(a) === margin(b) ? a - b : margin(a) - margin(b));
  }
  gallery.replaceChildren();
  added = 0;
  add(1);
  rove(listed[0]);
}
let current = null;
function rove(place) {
  if (current !== null) cardOf(current).firstChild.tabIndex = -1;
  current = place ?? null;
  if (current !== null) cardOf(current).firstChild.tabIndex = 0;
}
gallery.addEventListener('focusin', event => rove(event.target.closest('li').place));
gallery.addEventListener('keydown', event => {
  const columns = getComputedStyle(gallery).gridTemplateColumns.split(' ').length;
  const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -1e9, End: 1e9};
  if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const to = Math.max(0, Math.min(listed.length - 1, listed.indexOf(current) + steps[event.key]));
  focusOn(listed[to]);
});
gallery.addEventListener('click', event => {
  const card = event.target.closest('button') && event.target.closest('li');
  if (card) show(card.place);
});

// ------------------------------------------------------------------------------------------------------ the large view

const view = at('view'), stage = at('stage');
let viewed = null, viewedLabels = null, underPointer = null;
const drawView = () => {
  if (viewedLabels) draw(at('view-labels'), viewedLabels);
  for (const button of at('view-classes').querySelectorAll('button')) {
    button.setAttribute('aria-pressed', String(only === Number(button.dataset.only)));
  }
};
function tryPicture(place, sources) {
  if (viewed !== place) return;
  if (!sources.length) {
    at('view-note').textContent = 'This is a small copy: the picture itself cannot be shown from here. It was moved, or '
      + 'is of a kind that browsers do not show.';
    return;
  }
  const whole = new Image();
  whole.onload = () => { if (viewed === place) at('view-picture').src = whole.src; };
  whole.onerror = () => tryPicture(place, sources.slice(1));
  whole.src = sources[0];
}
function show(place) {
  viewed = place;
  const own = pictures[place], [label, overlay, explain] = own[FILES];
  at('view-name').textContent = own[NAME];
  at('view-place').textContent = `${listed.indexOf(place) + 1} of ${listed.length}`;
  const width = own[WIDTH] || 4, height = own[HEIGHT] || 3;
  stage.style.aspectRatio = `${width} / ${height}`;
  stage.style.width = `min(100%, calc(68vh * ${width / height}))`;
  stage.setAttribute('aria-label', `${own[NAME]}: ${captionOf(own)}`);
  const small = pictureSource(place);
  if (small) at('view-picture').src = small; else at('view-picture').removeAttribute('src');
  at('view-picture').hidden = !small;
  at('view-note').textContent = own[REMARK];
  const addresses = bases.map(base => base + own[ADDRESS]);
  if (small) tryPicture(place, addresses);
  viewedLabels = labelsOf(place);
  at('view-labels').hidden = !viewedLabels;
  underPointer = null;
  at('under').textContent = '';
  at('view-classes').replaceChildren(...own[SHARES].map(([number, share, score]) => {
    const item = make('li'), text = `${classes[number].name} ${percent(share)}`;
    const told = text + (score === null ? '' : `, score ${score.toFixed(3)}`);
    if (!number) {
      item.append(told);
      return item;
    }
    const button = make('button'), swatch = make('span', 'swatch');
    swatch.dataset.class = number;
    swatch.setAttribute('aria-hidden', 'true');
    button.type = 'button';
    button.dataset.only = number;
    button.title = 'Draw only this class';
    button.append(swatch, told);
    item.append(button);
    return item;
  }));
  const links = [['picture', bases.length ? addresses[0] : ''], ['label map', label], ['overlay', overlay], ['explanation', explain]];
  at('view-files').replaceChildren(...links.filter(([, address]) => address).map(([text, address]) => {
    const item = make('li'), link = make('a', '', text);
    link.href = address;
    link.target = '_blank';
    link.rel = 'noopener';
    item.append(link);
    return item;
  }));
  chooseColours();
  drawView();
  if (!view.open) view.showModal();
  if (viewedLabels) prepareUnder(place);
}
async function prepareUnder(place) {  // which class lies under the pointer: the same map, with its indices as colours
  const labels = labelsOf(place);
  const bitmap = await createImageBitmap(painted(labels, i => [i, i, i, 255]), {colorSpaceConversion: 'none'});
  const canvas = make('canvas');
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  pen.drawImage(bitmap, 0, 0);
  const {data} = pen.getImageData(0, 0, bitmap.width, bitmap.height);
  if (viewed !== place) return;
  underPointer = (x, y) => {
    const column = Math.min(bitmap.width - 1, Math.floor(x * bitmap.width));
    const index = data[4 * (Math.min(bitmap.height - 1, Math.floor(y * bitmap.height)) * bitmap.width + column)];
    return index ? classes[labels.classes[(index - 1) >> 1]].name : 'no class';
  };
}
function tellUnder(event) {
  const box = stage.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
  if (underPointer && x >= 0 && x < 1 && y >= 0 && y < 1) at('under').textContent = underPointer(x, y);
}
stage.addEventListener('pointermove', tellUnder);
stage.addEventListener('pointerdown', tellUnder);
stage.addEventListener('pointerleave', () => { at('under').textContent = ''; });
function step(by) {
  const to = listed.indexOf(viewed) + by;
  if (to >= 0 && to < listed.length) show(listed[to]);
}
at('previous').addEventListener('click', () => step(-1));
at('next').addEventListener('click', () => step(1));
at('close').addEventListener('click', () => view.close());
view.addEventListener('click', event => { if (event.target === view) view.close(); });
view.addEventListener('keydown', event => {
  if (event.target.matches('input,select') || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'ArrowLeft') step(-1);
  if (event.key === 'ArrowRight') step(1);
});
view.addEventListener('close', () => {
  const place = viewed;
  viewed = null;
  if (place !== null) focusOn(place);
});

// -------------------------------------------------------------------------------------------------------- the controls

const boxes = [...document.querySelectorAll('#totals input[data-class]')];
boxes.forEach(box => box.addEventListener('change', () => {
  shown[box.dataset.class] = box.checked;
  repaint();
  if (at('sort').value === 'share' && !/^\d+$/.test(at('filter').value)) list();
}));
function drawOnly(number) {
  only = only === number ? null : number;
  for (const button of document.querySelectorAll('#totals button[data-only]')) {
    button.setAttribute('aria-pressed', String(only === Number(button.dataset.only)));
  }
  at('only').textContent = only === null ? '' : `Only ${classes[only].name} is drawn.`;
  repaint();
}
for (const part of [at('totals'), at('view-classes')]) {
  part.addEventListener('click', event => {
    const button = event.target.closest('button[data-only]');
    if (button) drawOnly(Number(button.dataset.only));
  });
}
for (const [name, value] of [['tick-all', true], ['tick-none', false]]) {
  at(name)?.addEventListener('click', () => {  // without a class there are none
    shown.fill(value);
    boxes.forEach(box => { box.checked = value; });
    repaint();
    list();
  });
}
const fade = value => {
  for (const name of ['opacity', 'view-opacity']) at(name).value = value;
  document.documentElement.style.setProperty('--opacity', String(value / 100));
};
for (const name of ['opacity', 'view-opacity']) at(name).addEventListener('input', event => fade(event.target.value));
at('outlines').addEventListener('change', repaint);
at('colours').addEventListener('change', repaint);
for (const name of ['filter', 'sort']) at(name).addEventListener('change', list);
let waiting;
at('search').addEventListener('input', () => {
  clearTimeout(waiting);
  waiting = setTimeout(list, 120);
});
fade(55);
chooseColours();
list();
at('controls').hidden = false;
})();
