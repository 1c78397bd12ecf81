// Tables that sort by a column, and plots of measures against bitrate, drawn with uPlot.
'use strict';

// ---- Tables

function sortKey(row, column) {
  const text = row.cells[column].dataset.sort ?? '';
  return text === '' || isNaN(text) ? text : +text;
}

function compare(a, b) {
  return typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b));
}

// Cells without a value stay last in either direction
function sortBy(heading) {
  const table = heading.closest('table'), body = table.tBodies[0];
  const first = heading.querySelector('button').dataset.better === 'higher' ? 'descending' : 'ascending';
  const other = first === 'ascending' ? 'descending' : 'ascending';
  const direction = heading.getAttribute('aria-sort') === first ? other : first;
  for (const th of table.tHead.rows[0].cells) th.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', direction);
  const sign = direction === 'ascending' ? 1 : -1;
  const rows = [...body.rows].map(row => [sortKey(row, heading.cellIndex), row]);
  rows.sort(([a], [b]) => (a === '') - (b === '') || sign * compare(a, b));
  body.append(...rows.map(([, row]) => row));
}

for (const button of document.querySelectorAll('thead button'))
  button.addEventListener('click', () => sortBy(button.closest('th')));

// ---- Plots

const {charts, points, curves} = JSON.parse(document.getElementById('plots').textContent);
const groups = [...new Set(points.map(point => point.group))];
const hidden = new Set();
const HEIGHT = 240;

const css = name => getComputedStyle(document.documentElement).getPropertyValue('--' + name);
const number = value => Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en') : String(+value.toPrecision(3));

function color(group) {
  const i = groups.indexOf(group);
  return i < 6 ? css('c' + i) : `hsl(${(i * 137) % 360} 50% 50%)`;
}

function ticks(low, high) {
  const digits = high / low > 6 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7], all = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) all.push(...digits.map(digit => digit * 10 ** e));
  return all.filter(tick => tick >= low && tick <= high);
}

function mark(ctx, kind, x, y, size) {
  ctx.beginPath();
  if (kind === 'random codes') {
    ctx.moveTo(x - size, y - size); ctx.lineTo(x + size, y + size);
    ctx.moveTo(x - size, y + size); ctx.lineTo(x + size, y - size);
  } else ctx.arc(x, y, size, 0, 2 * Math.PI);
  if (kind === 'own') ctx.fill();
  ctx.stroke();
}

function whisker(ctx, x, low, high) {
  ctx.beginPath();
  ctx.moveTo(x, low); ctx.lineTo(x, high);
  ctx.stroke();
}

class Chart {
  constructor(figure, {measure}) {
    this.box = figure.querySelector('.plot');
    this.hover = figure.querySelector('.hover');
    this.points = points.filter(point => point.values[measure]).map(point => ({...point, y: point.values[measure]}));
    const placed = this.points.filter(point => point.bitrate);
    const xs = placed.map(point => point.bitrate), ys = this.points.flatMap(point => point.y.filter(o => o != null));
    const low = Math.min(...ys), high = Math.max(...ys), pad = .07 * (high - low || 1);
    const axis = {stroke: () => css('dim'), font: '12px system-ui, sans-serif', ticks: {show: false},
      grid: {stroke: () => css('line'), width: 1}, values: (_, splits) => splits.map(number)};
    this.plot = new uPlot({
      width: this.box.clientWidth || 340, height: HEIGHT, legend: {show: false},
      cursor: {drag: {x: false, y: false}, points: {show: false}},
      scales: {
        x: {time: false, distr: 3, range: () => [Math.min(...xs) / 1.4, Math.max(...xs) * 1.4]},
        y: {range: () => [low - pad, high + pad]},
      },
      axes: [
        {...axis, label: 'bit/s', labelSize: 18, labelFont: axis.font, size: 24, splits: (_, i, from, to) => ticks(from, to), filter: (_, splits) => splits},
        {...axis, size: 52},
      ],
      series: [{}, {paths: () => null, points: {show: false}}],
      hooks: {draw: [plot => this.draw(plot)], setCursor: [plot => this.name(plot)]},
    }, [xs.toSorted((a, b) => a - b), xs.map(() => low)], this.box);
    const over = this.plot.over;  // a finger on the plot moves the cursor, as a mouse does
    over.onpointermove = event => {
      if (event.pointerType !== 'mouse') this.plot.setCursor({left: event.offsetX, top: event.offsetY});
    };
  }

  get shown() { return this.points.filter(point => !hidden.has(point.group)); }

  draw(plot) {
    const {ctx, bbox} = plot, dot = devicePixelRatio;
    ctx.save();
    ctx.lineWidth = 1.5 * dot;
    for (const {bitrate, kind, group, y: [value, low, high]} of this.shown) {
      const at = y => plot.valToPos(y, 'y', true);
      ctx.strokeStyle = ctx.fillStyle = color(group);
      ctx.setLineDash(bitrate ? [] : [5 * dot, 4 * dot]);
      if (!bitrate) {
        ctx.beginPath();
        ctx.moveTo(bbox.left, at(value)); ctx.lineTo(bbox.left + bbox.width, at(value));
        ctx.stroke();
        continue;
      }
      const x = plot.valToPos(bitrate, 'x', true);
      if (low != null) whisker(ctx, x, at(low), at(high));
      mark(ctx, kind, x, at(value), 4.5 * dot);
    }
    ctx.restore();
  }

  name(plot) {  // the system that is nearest to the pointer
    const {left, top} = plot.cursor;
    if (left == null || left < 0) return this.hover.textContent = '';
    const distance = ({bitrate, y}) => Math.hypot(bitrate ? plot.valToPos(bitrate, 'x') - left : 0, plot.valToPos(y[0], 'y') - top);
    const near = this.shown.map(point => [distance(point), point]).sort(([a], [b]) => a - b)[0];
    if (!near || near[0] > 30) return this.hover.textContent = '';
    const {title, bitrate, y: [value, low, high]} = near[1];
    const interval = low == null ? '' : ` (${number(low)} to ${number(high)})`;
    this.hover.textContent = `${title}: ${number(value)}${interval}${bitrate ? ` at ${number(bitrate)} bit/s` : ''}`;
  }

  redraw() { this.plot.redraw(); }
  resize() { this.plot.setSize({width: this.box.clientWidth, height: HEIGHT}); }
}

class Training {  // a curve for each run
  constructor(figure) {
    this.box = figure.querySelector('.plot');
    this.hover = figure.querySelector('.hover');
    const axis = {stroke: () => css('dim'), font: '12px system-ui, sans-serif', ticks: {show: false},
      grid: {stroke: () => css('line'), width: 1}, values: (_, splits) => splits.map(number)};
    this.plot = new uPlot({
      width: this.box.clientWidth || 340, height: HEIGHT, legend: {show: false}, cursor: {y: false, drag: {x: false, y: false}},
      scales: {x: {time: false}},
      axes: [{...axis, values: (_, splits) => splits.map(step => Number.isInteger(step) ? number(step) : ''), label: 'step', labelSize: 18, labelFont: axis.font, size: 24}, {...axis, size: 52}],
      series: [{}, ...curves.map(({group}) => ({stroke: () => color(group), width: 1.8, spanGaps: true, points: {size: 5}}))],
      hooks: {setCursor: [plot => this.name(plot)]},
    }, uPlot.join(curves.map(({steps, values}) => [steps, values])), this.box);
  }

  name({cursor: {left, idx}, data}) {
    const values = left >= 0 && idx != null ? curves.map(({group}, i) => [group, data[i + 1][idx]]) : [];
    const texts = values.filter(([group, value]) => value != null && !hidden.has(group)).map(([group, value]) => `${group} ${number(value)}`);
    this.hover.textContent = texts.length ? `step ${number(data[0][idx])}: ${texts.join(', ')}` : '';
  }

  redraw() { curves.forEach(({group}, i) => this.plot.setSeries(i + 1, {show: !hidden.has(group)})); this.plot.redraw(); }
  resize() { this.plot.setSize({width: this.box.clientWidth, height: HEIGHT}); }
}

const figures = document.querySelectorAll('#charts figure');
const drawn = charts.map((chart, i) => new Chart(figures[i], chart));
if (curves.length) drawn.push(new Training(document.getElementById('training')));
const redraw = () => { drawn.forEach(chart => chart.redraw()); colorLegend(); };

const legend = document.getElementById('legend');
const buttons = legend ? groups.map(group => {
  const button = legend.appendChild(document.createElement('button'));
  button.type = 'button';
  button.append(document.createElement('i'), group);
  button.setAttribute('aria-pressed', true);
  button.onclick = () => {
    if (!hidden.delete(group)) hidden.add(group);
    button.setAttribute('aria-pressed', !hidden.has(group));
    redraw();
  };
  return button;
}) : [];

function colorLegend() {
  buttons.forEach((button, i) => { button.firstChild.style.background = color(groups[i]); });
}

colorLegend();
addEventListener('resize', () => drawn.forEach(chart => chart.resize()));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach(details => { details.open = true; }));
