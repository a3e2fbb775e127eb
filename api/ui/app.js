// SPDX-License-Identifier: LGPL-2.1-or-later
// The dashboard: asks the daemon every few seconds, and draws what it says. Nothing is written, nothing is kept.
'use strict';

const POLL_MS = 3000; // with a job at work: 1000
const MAP_PAGES = 20; // of extents, at most
const state = { status: null, jobs: [], points: [], vm: null, maps: new Map(), all: false, lost: null };

/* ---- small things ---- */

const $ = (id) => document.getElementById(id);

// An element; attributes by name, children as texts and nodes.
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {}))
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

async function get(path) {
  const answer = await fetch('/api' + path, { headers: { Accept: 'application/json' } });
  const body = await answer.json().catch(() => null);
  if (answer.ok) return body;
  throw new Error((body && body.error && body.error.message) || 'The daemon answered with status ' + answer.status);
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let at = 0;
  for (; bytes >= 1024 && at < units.length - 1; at++) bytes /= 1024;
  return (at === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)) + ' ' + units[at];
}

function span(seconds) {
  for (const [from, unit, name] of [[172800, 86400, 'd'], [7200, 3600, 'h'], [120, 60, 'min']])
    if (seconds >= from) return Math.floor(seconds / unit) + ' ' + name;
  return Math.max(0, Math.floor(seconds)) + ' s';
}

const now = () => (state.status ? state.status.time : Date.now() / 1000);
const ago = (time) => (time ? span(now() - time) + ' ago' : 'never');
const plural = (n, one, more) => n + ' ' + (n === 1 ? one : more);
function date(time, long) {
  const options = { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
  return new Date(time * 1000).toLocaleString(undefined, long ? { ...options, year: 'numeric', second: '2-digit' } : options);
}
const sum = (items, key) => items.reduce((total, item) => total + (item[key] || 0), 0);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function meter(share, over, label) {
  const bar = h('span');
  bar.style.width = Math.min(100, Math.max(0, share * 100)) + '%';
  return h('div', { class: over ? 'meter over' : 'meter', role: 'img', 'aria-label': label }, bar);
}

const empty = (text, command) => h('p', { class: 'empty' }, text, command ? h('code', {}, command) : null);

// Replaces what is in ELEMENT, and gives the focus back to what had it.
function fill(element, ...children) {
  const focused = element.contains(document.activeElement) && document.activeElement.getAttribute('href');
  element.replaceChildren(...children.flat().filter(Boolean));
  if (focused) for (const link of element.querySelectorAll('a')) if (link.getAttribute('href') === focused) link.focus();
}

/* ---- head and attention ---- */

function drawTop() {
  const status = state.status;
  $('daemon').textContent = status ? 'version ' + status.version + ', up for ' + span(status.uptime) + ', ' + status['state-dir'] : 'no answer yet';
  const time = status && new Date(status.time * 1000).toLocaleTimeString(undefined, { hourCycle: 'h23' });
  $('freshness').textContent = status ? (state.lost ? 'was so at ' : 'as of ') + time : '';
  $('lost').hidden = !state.lost;
  if (state.lost && $('lost').firstChild?.textContent !== state.lost)
    $('lost').replaceChildren(h('span', {}, state.lost), h('code', {}, state.ended ? 'cbt-backup ui' : 'cbt-backup doctor'));
  if (state.lost && !status)
    for (const id of ['vms', 'jobs', 'store']) fill($(id), empty('Nothing is known yet.'));
}

function drawAttention() {
  const found = state.status.attention;
  $('attention').hidden = found.length === 0;
  fill($('attention').querySelector('ul'), found.map((item) =>
    h('li', { class: item.level }, h('b', {}, item.level === 'fail' ? 'Problem' : 'Warning'), h('span', {}, item.text),
      item.hint ? h('code', {}, item.hint) : null)));
}

/* ---- vms ---- */

// The age of the last good point against what the policy allows.
function vmAge(vm) {
  if (!vm['good-time']) return [h('span', {}, 'no good point'), h('small', {}, 'nothing can be restored')];
  const age = now() - vm['good-time'], allowed = vm['wanted-time'] ? vm['wanted-time'] - vm['good-time'] : 0;
  const parts = [h('span', {}, span(age) + ' old'), h('small', {}, allowed ? 'of ' + span(allowed) + ' by its policy' : 'no policy')];
  if (allowed) parts.push(meter(age / allowed, age > allowed, span(age) + ' of ' + span(allowed)));
  return parts;
}

function vmRow(vm) {
  const words = { ok: 'good', warn: 'look at it', fail: 'not protected' };
  const next = vm.policy && vm.policy.enabled && vm.policy['next-run'];
  const cell = (value, label) => h('span', {}, value, h('small', {}, label));
  return h('a', { class: 'vm', href: '#vm=' + encodeURIComponent(vm.name), 'aria-current': vm.name === state.vm ? 'true' : null },
    h('span', {}, h('span', { class: 'name' }, vm.name), h('br'), h('span', { class: 'state ' + vm.health }, words[vm.health] || vm.health)),
    h('span', {}, vmAge(vm)),
    cell(next ? (next > now() ? 'in ' + span(next - now()) : 'now') : '–', 'next run'),
    cell(size(vm.dirty), vm.exported ? 'dirty now' : 'not exported'),
    cell(String(vm.points), vm['verified-time'] ? 'points, checked ' + ago(vm['verified-time']) : vm.points ? 'points, unchecked' : 'points'));
}

function drawVms() {
  const vms = state.status.vms;
  fill($('vms'), vms.length ? vms.map(vmRow) : empty('No vm is registered yet.', 'cbt-backup vm add NAME --disk DISK=PATH'));
}

/* ---- points ---- */

const POINT_LIMIT = 12;

function timeline(points) {
  const width = Math.max(240, $('timeline').clientWidth || 600), height = 96, foot = 18;
  const first = points[points.length - 1].time, last = Math.max(points[0].time, first + 1);
  const most = Math.max(1, ...points.map((point) => sum(point.disks, 'stored')));
  const thick = Math.max(3, Math.min(14, (width / points.length) * 0.6));
  // Points of one minute stand side by side: their times say nothing.
  const crowded = last - first < 60;
  const x = (time, i) => (crowded ? (points.length - 1 - i) / Math.max(1, points.length - 1) : (time - first) / (last - first)) * (width - thick);
  const bars = points.map((point, i) => {
    const stored = sum(point.disks, 'stored'), tall = Math.max(3, Math.sqrt(stored / most) * (height - foot - 4));
    const kind = point.damaged ? ' damaged' : point.kind === 'full' ? ' full' : '';
    return svg('rect', { class: 'bar' + kind, x: x(point.time, i), y: height - foot - tall, width: thick, height: tall, rx: 1.5 },
      svg('title', {}, date(point.time, true) + ', ' + point.kind + ', ' + size(stored) + ' stored'));
  });
  const ticks = points.length > 1 ? [[0, first, 'start'], [width, last, 'end']] : [[0, first, 'start']];
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img',
    'aria-label': `${plural(points.length, 'recovery point', 'recovery points')} from ${date(first)} to ${date(last)}; the largest stored ${size(most)}` },
    svg('line', { class: 'axis', x1: 0, x2: width, y1: height - foot + 0.5, y2: height - foot + 0.5 }), ...bars,
    ...ticks.map(([at, time, anchor]) => svg('text', { x: at, y: height - 3, 'text-anchor': anchor }, date(time))));
}

function pointRow(point) {
  const checked = point.damaged ? h('span', { class: 'bad' }, 'damaged') : point.verified ? ago(point.verified) : '–';
  const note = [point.protected ? 'protected' : null, point.note, point.reason].filter(Boolean).join('; ');
  return h('tr', {}, h('td', {}, date(point.time)), h('td', {}, point.kind), h('td', { class: 'number' }, size(sum(point.disks, 'dirty'))),
    h('td', { class: 'number' }, size(sum(point.disks, 'stored'))), h('td', { class: 'wide-only' }, checked),
    h('td', { class: 'note' }, note), h('td', { class: 'wide-only' }, h('code', {}, point.uuid.slice(0, 8))));
}

function drawPoints() {
  const points = state.points.filter((point) => point.vm === state.vm);
  if (points.length === 0) {
    fill($('timeline'));
    fill($('points'), empty('It has no recovery point yet.', 'cbt-backup --full ' + state.vm));
    return;
  }
  fill($('timeline'), timeline(points), h('p', { class: 'legend' }, h('span', { class: 'full' }, 'full'), h('span', { class: 'incremental' }, 'incremental'),
    points.some((point) => point.damaged) ? h('span', { class: 'damaged' }, 'damaged') : null, 'height: bytes stored, by the square root'));
  const shown = state.all ? points : points.slice(0, POINT_LIMIT);
  const heads = [['Time'], ['Kind'], ['Read', 'number'], ['Stored', 'number'], ['Verified', 'wide-only'], ['Note'], ['Point', 'wide-only']];
  const more = points.length > shown.length ? h('button', { type: 'button' }, 'Show all ' + points.length) : null;
  if (more) more.addEventListener('click', () => { state.all = true; drawPoints(); });
  fill($('points'), h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-labelledby': 'timeline-title' }, h('table', {},
    h('thead', {}, h('tr', {}, heads.map(([text, kind]) => h('th', { scope: 'col', class: kind }, text)))),
    h('tbody', {}, shown.map(pointRow)))), more);
}

/* ---- the map of a disk ---- */

// All extents of a question, page by page; TRUNCATED if there are too many to ask for.
async function extentsOf(vm, disk, query) {
  const base = `/v1/vms/${encodeURIComponent(vm)}/disks/${encodeURIComponent(disk)}/changes?limit=10000${query}`;
  const all = { extents: [], size: 0, truncated: false };
  let offset = 0;
  for (let page = 0; offset !== null; page++) {
    if (page === MAP_PAGES) { all.truncated = true; break; }
    const answer = await get(base + '&offset=' + offset);
    all.extents.push(...answer.extents.filter((extent) => extent.kind === 'data' || query.includes('from=')));
    all.size = answer['size-to'];
    offset = answer['next-offset'];
  }
  return all;
}

async function loadMap(vm, disk, since) {
  const map = { vm, disk, since, allocated: null, changed: null, problem: null };
  try {
    map.allocated = await extentsOf(vm, disk, '');
  } catch (error) {
    if (!since) { map.problem = error.message; return map; }
    try { map.allocated = await extentsOf(vm, disk, '&to=' + since); } catch (again) { map.problem = again.message; return map; }
  }
  if (since)
    try { map.changed = await extentsOf(vm, disk, '&from=' + since); } catch (error) { map.problem = error.message; }
  return map;
}

// How much of each cell EXTENTS cover, 0 to 1.
function cover(extents, bytesPerCell, n) {
  const cells = new Float32Array(n);
  for (const { offset, length } of extents)
    for (let at = offset; at < offset + length;) {
      const cell = Math.floor(at / bytesPerCell);
      if (cell >= n) break;
      const end = Math.min(offset + length, (cell + 1) * bytesPerCell);
      cells[cell] += (end - at) / bytesPerCell;
      at = Math.max(end, at + 1);
    }
  return cells;
}

function paint(canvas, map) {
  const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1, step = width < 500 ? 8 : 9, gap = 2;
  if (!width || !map.allocated || !map.allocated.size) return;
  const columns = Math.floor((width + gap) / step), rows = Math.min(width < 500 ? 24 : 16, Math.ceil(map.allocated.size / 65536 / columns)) || 1;
  canvas.width = width * ratio;
  canvas.height = (rows * step - gap) * ratio;
  canvas.style.height = rows * step - gap + 'px';
  const n = columns * rows, per = map.allocated.size / n, context = canvas.getContext('2d');
  const allocated = cover(map.allocated.extents, per, n), changed = map.changed ? cover(map.changed.extents, per, n) : new Float32Array(n);
  const [hole, data, fresh] = [colour('--track'), colour('--accent'), colour('--changed')];
  context.scale(ratio, ratio);
  for (let i = 0; i < n; i++) {
    const x = (i % columns) * step, y = Math.floor(i / columns) * step;
    const square = (fillStyle, alpha) => { context.globalAlpha = alpha; context.fillStyle = fillStyle; context.fillRect(x, y, step - gap, step - gap); };
    square(hole, 1);
    if (allocated[i] > 0) square(data, 0.25 + 0.6 * Math.min(1, allocated[i]));
    if (changed[i] > 0) square(fresh, 0.55 + 0.45 * Math.min(1, changed[i]));
  }
}

function drawMaps(vm) {
  const maps = [...state.maps.values()].filter((map) => map.vm === vm.name);
  fill($('disks'), maps.map((map) => {
    const since = map.since && state.points.find((point) => point.uuid === map.since);
    const bytes = (extents) => size(sum(extents.extents, 'length')) + (extents.truncated ? ' or more' : '');
    const facts = [map.allocated && size(map.allocated.size) + ', ' + bytes(map.allocated) + ' allocated',
      map.changed && bytes(map.changed) + ' changed since ' + (since ? date(since.time) : 'the last point')].filter(Boolean).join(', ');
    const canvas = map.allocated ? h('canvas', { role: 'img', 'aria-label': `Map of ${map.disk}: ${facts}` }) : null;
    const panel = h('div', { class: 'panel disk' }, h('header', {}, h('h3', {}, map.disk), h('span', { class: 'quiet' }, facts)), canvas,
      canvas ? h('p', { class: 'legend' }, h('span', { class: 'allocated' }, 'allocated'), map.changed ? h('span', { class: 'changed' }, 'changed') : null, h('span', { class: 'hole' }, 'empty')) : null,
      map.problem ? h('p', { class: 'legend' }, map.changed || map.allocated ? 'What changed since is not known: ' + map.problem : map.problem) : null);
    if (canvas) requestAnimationFrame(() => paint(canvas, map));
    return panel;
  }));
}

// Maps are asked for when a vm is chosen, and when there is a newer point or other dirty bytes.
async function loadMaps(vm) {
  const key = [vm.name, vm.good, vm.dirty, vm.exported].join();
  if (state.mapsKey === key || vm.job) return;
  state.mapsKey = key;
  const shown = await get('/v1/vms/' + encodeURIComponent(vm.name));
  const maps = await Promise.all(shown.disks.map((disk) => loadMap(vm.name, disk.name, vm.latest)));
  state.maps = new Map(maps.map((map) => [map.disk, map]));
  drawMaps(vm);
}

/* ---- jobs ---- */

function jobRow(job) {
  const active = job.status === 'active' || job.status === 'queued', share = job.dirty ? job.transferred / job.dirty : 0;
  const took = job['end-time'] ? job['end-time'] - job['start-time'] : now() - job['start-time'];
  const facts = active ? (job.dirty ? `${Math.floor(share * 100)} %, ${size(job.transferred)} of ${size(job.dirty)}` : job.status)
    : ago(job['end-time']) + (took > 0 ? ', took ' + span(took) : '') + (job.stored ? ', ' + size(job.stored) + ' stored' : '');
  return h('article', { class: 'job' }, h('header', {}, h('span', {}, (job.kind ? job.kind + ' ' : '') + job.type + (job.vm ? ' of ' + job.vm : '')),
    h('span', { class: 'state ' + (job.status === 'error' ? 'fail' : job.status === 'cancelled' ? 'warn' : 'ok') }, active ? job.status : { done: 'done', error: 'failed' }[job.status] || job.status)),
    active ? meter(share, false, Math.floor(share * 100) + ' percent') : null, h('small', {}, facts),
    job.errmsg ? h('small', { class: 'bad' }, job.errmsg) : null);
}

// Jobs at work are followed by their events; what of them is lost, the next poll brings.
const followed = new Map();
function followJobs() {
  for (const job of state.jobs) {
    if (job.status !== 'active' || followed.has(job.id) || followed.size >= 2) continue;
    const source = new EventSource('/api/v1/jobs/' + job.id + '/events');
    const end = () => { source.close(); followed.delete(job.id); };
    const take = (event) => {
      const at = state.jobs.findIndex((item) => item.id === job.id);
      if (at >= 0) state.jobs[at] = JSON.parse(event.data);
      drawJobs();
    };
    source.addEventListener('progress', take);
    source.addEventListener('end', (event) => { take(event); end(); });
    source.addEventListener('error', end);
    followed.set(job.id, source);
  }
}

function drawJobs() {
  const rank = (job) => (job.status === 'active' ? 0 : job.status === 'queued' ? 1 : 2);
  const jobs = [...state.jobs].sort((a, b) => rank(a) - rank(b) || b.id - a.id);
  const busy = jobs.filter((job) => rank(job) < 2);
  fill($('jobs'), jobs.length ? [...busy, ...jobs.filter((job) => rank(job) === 2).slice(0, Math.max(2, 5 - busy.length))].map(jobRow) : empty('No job has run yet.'));
}

/* ---- the store ---- */

// What the points there are have added, one after the other.
function growth() {
  const points = [...state.points].sort((a, b) => a.time - b.time);
  if (points.length < 2 || points[points.length - 1].time - points[0].time < 60) return null;
  const width = 288, height = 96, foot = 18, first = points[0].time, last = Math.max(points[points.length - 1].time, first + 1);
  let total = 0;
  const steps = points.map((point) => [((point.time - first) / (last - first)) * width, (total += sum(point.disks, 'stored'))]);
  const y = (bytes) => height - foot - (bytes / Math.max(1, total)) * (height - foot - 4);
  const line = steps.map(([x, bytes], i) => (i ? `H${x.toFixed(1)}V` : `M${x.toFixed(1)} `) + y(bytes).toFixed(1)).join('');
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Growth of the store: the points there are have stored ${size(total)} since ${date(first)}` },
    svg('path', { class: 'area', d: line + `V${height - foot}H0Z` }), svg('path', { class: 'curve', d: line }),
    svg('line', { class: 'axis', x1: 0, x2: width, y1: height - foot + 0.5, y2: height - foot + 0.5 }),
    svg('text', { x: 0, y: height - 3 }, date(first)), svg('text', { x: width, y: height - 3, 'text-anchor': 'end' }, date(last)));
}

function drawStore() {
  const store = state.status.store, used = store.size && store.free !== null ? 1 - store.free / store.size : null;
  const fact = (name, value) => [h('dt', {}, name), h('dd', {}, value)];
  fill($('store'), h('dl', { class: 'facts' }, fact('Packs', size(store.bytes)), fact('Free', size(store.free)), fact('Reserve', size(store.reserve)),
    fact('Chunks', store.chunks.toLocaleString())), used === null ? null : meter(used, store.free < store.reserve, Math.round(used * 100) + ' percent of the file system are used'),
    used === null ? null : h('small', {}, Math.round(used * 100) + ' % of its file system are used'), growth(),
    growth() ? h('small', {}, 'stored by the points there are') : null);
}

/* ---- all of it ---- */

function drawDetail() {
  const vm = state.status.vms.find((item) => item.name === state.vm);
  $('detail').hidden = !vm;
  if (!vm) return;
  $('detail-title').textContent = vm.name;
  drawPoints();
  loadMaps(vm).catch((error) => fill($('disks'), h('p', { class: 'problem' }, error.message)));
}

// The vm that the address names; null: none, or nothing that makes sense.
function askedVm() {
  const match = /^#vm=(.+)$/.exec(location.hash);
  try {
    return match && decodeURIComponent(match[1]);
  } catch {
    return null;
  }
}

function chooseVm() {
  const asked = askedVm(), names = state.status.vms.map((vm) => vm.name);
  const vm = names.includes(asked) ? asked : names[0] || null;
  if (vm !== state.vm) {
    Object.assign(state, { vm, all: false, mapsKey: null, maps: new Map() });
    fill($('disks'), vm ? h('p', { class: 'panel empty' }, 'Looking at its disks …') : null);
  }
}

function draw() {
  drawTop();
  if (!state.status) return;
  chooseVm();
  drawAttention();
  drawVms();
  drawDetail();
  drawJobs();
  followJobs();
  drawStore();
}

async function refresh() {
  try {
    [state.status, state.jobs, state.points] = await Promise.all([get('/v1/status'), get('/v1/jobs?limit=20'), get('/v1/points')]);
    state.lost = null;
  } catch (error) {
    state.ended = error instanceof TypeError; // nobody listens any more
    state.lost = state.ended ? 'This page has no server any more: its command has ended. Start it again:' : error.message + '. What to do says:';
  }
  document.body.toggleAttribute('data-ready', true);
  try {
    draw();
  } finally {
    const busy = state.status && (state.status['jobs-active'] > 0 || state.status['jobs-queued'] > 0);
    setTimeout(refresh, document.hidden ? 4 * POLL_MS : busy ? POLL_MS / 3 : POLL_MS);
  }
}

function redrawCharts() {
  if (!state.status) return;
  drawDetail();
  const vm = state.status.vms.find((item) => item.name === state.vm);
  if (vm) drawMaps(vm);
}

let resized = 0;
window.addEventListener('hashchange', draw);
window.addEventListener('resize', () => { clearTimeout(resized); resized = setTimeout(redrawCharts, 100); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redrawCharts);
refresh();
