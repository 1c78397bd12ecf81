// The live page of a run. It reads data.json every two seconds and draws its curves with uPlot.
// Names and messages of the run are shown as text nodes, never as HTML.
'use strict';
const $ = id => document.getElementById(id);
const METRICS = JSON.parse($('metrics').textContent);  // name -> {label, unit}
const HEIGHT = 190;
let data = null;  // the last data.json

function add(parent, tag, text, attributes = {}) {
  const element = parent.appendChild(document.createElement(tag));
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text != null) element.textContent = text;
  return element;
}

// ---- Numbers as text

function number(value) {
  if (value == null || !isFinite(value)) return '–';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace('.0e', 'e');
  return size >= 100 ? Math.round(value).toLocaleString('en') : String(+value.toPrecision(3));
}

const UNITS = {
  's': value => value < 1 ? number(1000 * value) + ' ms' : number(value) + ' s',
  '%': value => number(100 * value) + ' %',
  'MB': value => number(value) + ' MB',
};

function withUnit(name, value) {
  if (value == null) return '–';
  return (UNITS[METRICS[name]?.unit] ?? number)(value);
}

function duration(seconds) {
  if (seconds == null) return '–';
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.round(seconds % 86400 / 3600)} h`;
}

// ---- Charts

function color(name) {  // the name of a CSS variable, or an hsl() color
  return name.startsWith('hsl') ? name : getComputedStyle(document.documentElement).getPropertyValue('--' + name);
}

const isNumber = value => value != null;
const lastIndex = values => values.findLastIndex(isNumber);

// The index of the nearest point of a curve, for uPlot: curves have points at different steps
function nearestPoint(plot, curve, hovered, x) {
  const xs = plot.data[0], ys = plot.data[curve];
  if (curve === 0) return hovered;
  let left = hovered, right = hovered;
  while (left >= 0 && ys[left] == null) left--;
  while (right < ys.length && ys[right] == null) right++;
  if (left < 0) return right;
  return right >= ys.length || x - xs[left] <= xs[right] - x ? left : right;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low), ticks = [];
  const digits = decades > 3 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 3, 5, 7];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const digit of digits) ticks.push(digit * 10 ** e);
  return ticks.filter(tick => tick >= low * .9999 && tick <= high * 1.0001);
}

// The axis ends a little above what 98 % of the steps reach, so that a spike does not flatten the rest
function yRange({curves, log, floor, top}) {
  const values = curves.flatMap(curve => {
    const shown = curve.y.filter(value => value != null && (!log || value > 0));
    if (!curve.thin || shown.length <= 50) return shown;
    return shown.sort((a, b) => a - b).slice(0, Math.ceil(shown.length * .98));
  });
  if (!values.length) return null;
  const high = top ?? Math.max(...values) * (log ? 1.1 : 1.06);
  const low = log ? Math.max(floor ?? 0, Math.min(...values) / 1.1) : Math.min(0, ...values);
  return [low, high > low ? high : low + (log ? low : 1)];
}

// A curve is {name, x, y, color} and may be `thin` (single steps), `still` (no value in the legend
// until the pointer is on the chart) or a dashed `rule`
class Chart {
  constructor(id) {
    this.box = $(id).querySelector('.plot');
    this.legend = $(id).querySelector('.legend');
  }

  show(spec) {  // {curves, log, floor, top, unit, end, xLabel}
    this.spec = spec;
    this.curves = spec.curves = spec.curves.filter(curve => curve.x && curve.y?.length);
    this.range = yRange(spec);
    if (!this.range) return this.clear();
    this.points = uPlot.join(this.curves.map(curve => this.table(curve)));
    const key = JSON.stringify([spec.log, this.curves.map(curve => [curve.color, curve.thin])]);
    if (this.plot && key === this.key) this.plot.setData(this.clamped());
    else this.create(key);
    this.writeLegend();
  }

  clear() {
    this.plot?.destroy();
    this.plot = null;
    this.legend.replaceChildren();
    this.box.replaceChildren();
    add(this.box, 'p', 'nothing yet');
  }

  table({x, y}) {  // without points whose step is unknown
    const known = x.map((_, i) => i).filter(i => x[i] != null);
    return [known.map(i => x[i]), known.map(i => y[i])];
  }

  clamped() {  // a logarithmic axis shows zero at its lower end
    if (!this.spec.log) return this.points;
    const raise = value => value != null && value < this.range[0] ? this.range[0] : value;
    return [this.points[0], ...this.points.slice(1).map(values => values.map(raise))];
  }

  create(key) {
    this.plot?.destroy();
    this.box.replaceChildren();
    this.key = key;
    this.plot = new uPlot({
      width: this.box.clientWidth || 350,
      height: HEIGHT,
      padding: [8, 18, 0, 0],
      legend: {show: false},
      cursor: {y: false, drag: {x: false, y: false}, dataIdx: nearestPoint},
      scales: {
        x: {time: false, range: () => [0, this.spec.end]},
        y: {distr: this.spec.log ? 3 : 1, range: () => this.range},
      },
      axes: this.axes(),
      series: [{}, ...this.curves.map(curve => this.series(curve))],
      hooks: {setCursor: [() => this.writeLegend()]},
    }, this.clamped(), this.box);
    const over = this.plot.over;  // a finger on the chart moves the cursor, as a mouse does
    over.onpointermove = event => {
      if (event.pointerType !== 'mouse') this.plot.setCursor({left: event.offsetX, top: event.offsetY});
    };
  }

  axes() {
    const axis = {stroke: () => color('dim'), font: '11px system-ui, sans-serif', ticks: {show: false},
      values: (_, splits) => splits.map(number), filter: (_, splits) => splits};
    const splits = this.spec.log ? (_, axisIndex, low, high) => logTicks(low, high) : undefined;
    return [
      {...axis, grid: {show: false}, size: 18, gap: 2, label: this.spec.xLabel ?? 'step', labelSize: 16, labelFont: axis.font, labelGap: 0},
      {...axis, grid: {stroke: () => color('line'), width: 1}, size: 46, space: 28, ...(splits && {splits})},
    ];
  }

  series({color: name, thin, rule}) {
    const stroke = () => color(name);
    const lastPoint = (plot, curve) => [lastIndex(plot.data[curve])];
    return {
      stroke, width: thin || rule ? 1 : 1.8, dash: rule ? [3, 3] : [],
      points: thin || rule ? {show: false} : {show: true, size: 6, fill: stroke, filter: lastPoint},
    };
  }

  writeLegend() {
    const {plot, spec, legend} = this;
    if (!plot) return;  // uPlot sets the cursor while it is made
    const hovered = plot.cursor.left >= 0 && plot.cursor.idx != null;
    legend.replaceChildren();
    if (hovered) add(legend, 'span', `${spec.xLabel ?? 'step'} ${number(this.points[0][plot.cursor.idx])}`, {class: 'dim'});
    this.curves.forEach((curve, i) => {
      if (curve.rule) return add(legend, 'span', '┄ ' + curve.name, {class: 'dim'});
      const values = this.points[i + 1];
      const value = values[hovered ? plot.cursor.idxs[i + 1] : lastIndex(values)];
      const entry = add(legend, 'span', null, {'data-points': plot.data[i + 1].filter(isNumber).length});
      add(entry, 'i').style.background = color(curve.color);
      entry.append(curve.name + (curve.still && !hovered ? '' : ' ' + number(value) + (value == null ? '' : spec.unit ?? '')));
    });
  }

  resize() { this.plot?.setSize({width: this.box.clientWidth, height: HEIGHT}); }
  redraw() { this.plot?.redraw(); this.writeLegend(); }
}

class Sparkline {
  constructor(box) { this.box = box; }
  show(y) {
    const points = [y.map((_, i) => i), y];
    if (this.plot) return this.plot.setData(points);
    this.plot = new uPlot({
      width: this.box.clientWidth || 100, height: 24, padding: [2, 0, 2, 0], legend: {show: false}, cursor: {show: false},
      scales: {x: {time: false}, y: {range: (_, low, high) => high > low ? [low, high] : [low - 1, low + 1]}},
      axes: [{show: false}, {show: false}],
      series: [{}, {stroke: () => color('thin'), width: 1, points: {show: false}}],
    }, points, this.box);
  }
  resize() { this.plot?.setSize({width: this.box.clientWidth, height: 24}); }
  redraw() { this.plot?.redraw(); }
}

// ---- What the page shows

const charts = Object.fromEntries(['loss', 'nre', 'lr', 'usage', 'perplexity', 'codes'].map(id => [id, new Chart(id)]));
const CARDS = ['step_s', 'data_wait', 'frames_per_s', 'memory_mb', 'grad_norm', 'skipped'];
const cards = {};

const bookColor = (i, n) => n < 7 ? 'c' + i : `hsl(${300 * i / n} 55% 52%)`;
const bookName = (i, n) => (i === 0 || n < 4 ? 'codebook ' : '') + (i + 1);

function bookCurves(name, factor = 1) {  // single steps, and the validations of each codebook
  const {log, steps} = data;
  const scaled = values => values?.map(value => value == null ? null : value * factor);
  const columns = Object.keys(log).filter(column => column.startsWith(name + '_'));
  const curves = [{name: 'steps', x: steps.step, y: scaled(steps[name]), color: 'thin', thin: true, still: true}];
  if (!columns.length) return [...curves, {name: 'validation', x: log.step, y: scaled(log[name]), color: 'c0'}];
  const book = (column, i) => ({name: bookName(i, columns.length), x: log.step, y: scaled(log[column]), color: bookColor(i, columns.length)});
  return [...curves, ...columns.map(book)];
}

function codeCurves() {  // how often each code is used, as a multiple of equal use
  const books = data.codes?.books ?? [];
  const curves = books.map((book, i) => {
    const name = books.length > 1 ? bookName(i, books.length) : number(book.size) + ' codes';
    const unused = book.unused ? ` (${number(book.unused)} unused)` : '';
    return {name: name + unused, x: book.x, y: book.y, color: bookColor(i, books.length), still: true};
  });
  return curves.length ? [...curves, {name: 'equal use', x: [0, 100], y: [1, 1], color: 'dim', rule: true}] : [];
}

function lastStep() {
  const last = ({step = []}) => step.filter(isNumber).slice(-1);
  return Math.max(1, ...last(data.steps), ...last(data.log));
}

const PART_COLORS = ['c2', 'c3', 'c4', 'c5'];

function partCurves(measure) {  // validation parts from other corpora
  const {log} = data, end = '/' + measure;
  const columns = Object.keys(log).filter(column => column.endsWith(end) && !column.startsWith('mean/'));
  return columns.map((column, i) => ({name: column.slice(0, -end.length), x: log.step, y: log[column], color: PART_COLORS[i % PART_COLORS.length]}));
}

function showLoss() {
  const {steps, log} = data, select = $('which');
  const names = ['loss', ...Object.keys(steps).filter(name => name !== 'loss' && name !== 'step' && !(name in METRICS))];
  if (names.join() !== [...select.options].map(option => option.value).join()) {
    const chosen = select.value;
    select.replaceChildren();
    for (const name of names) add(select, 'option', METRICS[name]?.label ?? name, {value: name});
    if (names.includes(chosen)) select.value = chosen;
  }
  charts.loss.show({end: lastStep(), log: $('log').checked, curves: [
    {name: 'steps', x: steps.step, y: steps[select.value], color: 'thin', thin: true},
    {name: 'train', x: log.step, y: log['train_' + select.value], color: 'c0'},
    {name: 'validation', x: log.step, y: log['valid_' + select.value], color: 'c1'},
    ...partCurves(select.value),
  ]});
}

function showCharts() {
  const {steps, log} = data, end = lastStep();
  showLoss();
  charts.nre.show({end, curves: [{name: 'validation', x: log.step, y: log.nre, color: 'c1'}, ...partCurves('nre')]});
  charts.lr.show({end, curves: [{name: 'steps', x: steps.step, y: steps.lr, color: 'c0'}]});
  charts.usage.show({end, top: 104, unit: ' %', curves: bookCurves('usage', 100)});
  charts.perplexity.show({end, curves: bookCurves('perplexity')});
  charts.codes.show({end: 100, xLabel: '% of the codes', log: true, floor: .01, curves: codeCurves()});
}

function makeCard(name) {
  const box = add($('figures'), 'div', null, {id: 'fig-' + name});
  add(box, 'span', METRICS[name]?.label ?? name, {class: 'dim'});
  return {box, value: add(box, 'b'), sparkline: new Sparkline(add(box, 'div', null, {class: 'spark'}))};
}

function showCards() {
  for (const name of CARDS) {
    const value = data.last[name] ?? data.validation[name], values = data.steps[name];
    if (value == null && !values) continue;
    const card = cards[name] ??= makeCard(name);
    card.box.className = name === 'skipped' && value > 0 ? 'bad' : '';
    card.value.textContent = withUnit(name, value);
    if (values?.length > 1) card.sparkline.show(values);
  }
}

function showState() {
  const {last, state, epochs} = data;
  const done = ['finished', 'measuring'].includes(state) ? 1 : last.progress ?? 0, percent = Math.floor(100 * done);
  const known = done > 0 || last.progress != null;
  document.title = (done < 1 ? percent + ' % ' : '') + data.name;
  $('name').textContent = data.name;
  $('made_of').textContent = data.made_of;
  $('report').hidden = !data.report;
  $('state').className = state;
  $('state').textContent = {
    training: 'training', finished: 'finished', interrupted: 'interrupted', starting: 'no row yet',
    measuring: 'trained, no report yet', silent: 'no new row for ' + duration(data.quiet_s),
  }[state];
  $('bar').firstElementChild.style.width = 100 * done + '%';
  $('bar').setAttribute('aria-valuenow', Math.round(100 * done));
  $('at').textContent = [
    known && percent + ' %',
    last.step != null && 'step ' + last.step.toLocaleString('en'),
    epochs && last.progress != null && `${(last.progress * epochs).toFixed(1)} of ${epochs} epochs`,
    last.time_s != null && duration(last.time_s) + ' of training',
    data.eta_s != null && `about ${duration(data.eta_s)} left`,
  ].filter(Boolean).join(' · ');
}

function showVerdict() {
  const verdict = data.verdict ?? '', box = $('verdict');
  box.hidden = !verdict;
  box.textContent = 'Codebook: ' + verdict;
  box.className = /^collapsed|^mostly dead/.test(verdict) ? 'bad' : /^healthy/.test(verdict) ? '' : 'warn';
}

function showEvents() {
  $('past').hidden = !data.events.length;
  $('events').replaceChildren();
  for (const {time, step, kind, text} of data.events) {
    const item = add($('events'), 'li', null, {class: ['warning', 'collapse'].includes(kind) ? kind : ''});
    for (const part of [time.replace('T', ' ').slice(0, 19), step && 'step ' + step, kind, text]) add(item, 'span', part);
  }
}

async function read() {  // returns why there is nothing new to show, or ''
  try {
    const response = await fetch('data.json');
    if (!response.ok) return await response.text();
    data = await response.json();
    showState();
    showVerdict();
    showCards();
    showEvents();
    showCharts();
    return '';
  } catch (error) {
    const stopped = error instanceof TypeError && /fetch/i.test(error.message);
    return stopped ? 'no answer: the server of this page has ended' : String(error);
  }
}

async function poll() {
  if (!data || !document.hidden) {
    const problem = await read();
    $('gone').textContent = problem;
    $('gone').hidden = !problem;
  }
  setTimeout(poll, 2000);
}

const plots = () => [...Object.values(charts), ...Object.values(cards).map(card => card.sparkline)];
$('which').onchange = $('log').onchange = () => data && showLoss();
window.onresize = () => plots().forEach(plot => plot.resize());
matchMedia('(prefers-color-scheme: dark)').onchange = () => plots().forEach(plot => plot.redraw());
poll();
