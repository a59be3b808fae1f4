/**
 * Where devices stand in the picture, and how what is computed travels between them. In pixels of a page whose letters are 16 high.
 *
 * Devices stand in rows that are read like a ring: the first row from the left, the next one from the right, and so on. So
 * devices that follow each other in a model are neighbours, and their links cross nobody.
 */

export interface Point {
  x: number;
  y: number;
}

/** Everything about a picture that depends on how many devices it shows and how wide it is. */
export interface Layout {
  height: number;
  /** Room that a device has for its name, across. */
  room: number;
  /** Half of a device's height. */
  half: number;
  nRows: number;
  points: Point[];
}

/** Room that a device takes across, where there is much and where there is little. */
const WIDE = 184;
const NARROW = 98;
/** From here on two find room beside each other. */
const PAIR = 270;
/** Below a device, for its name and how it is, and for each model of which it holds a part. */
const NAME = 52;
const LINE = 18;
const HELD = 29;
/** More than so many side by side are hard to count. */
const ROW_MAX = 5;
/** Between the upper edge and a device, with and without links that pass above others. */
const ARCS = 56;
const AIR = 20;

/** Puts `n` devices that hold parts of at most so many models into a width. */
export function layout(n: number, width: number, nHeld: number): Layout {
  const few = Math.min(ROW_MAX, Math.max(width >= PAIR ? 2 : 1, Math.floor(width / WIDE)));
  const many = Math.min(ROW_MAX, Math.max(1, Math.floor(width / NARROW)));
  // Names have more room where two rows do.
  const perRow = n <= few * 2 || few === many ? few : many;
  const nRows = Math.max(1, Math.ceil(n / perRow));
  const half = n <= 4 && width >= 720 ? 52 : perRow === few ? 42 : 36;
  const above = AIR + half + (nRows === 1 && n > 2 ? ARCS : 0);
  // Where there is little room words take another line.
  const below = half + NAME + (perRow === few ? 0 : LINE) + HELD * nHeld;
  const step = half + below + AIR;
  const points: Point[] = [];
  for (let row = 0; row < nRows; row++) {
    // As even as it gets, the longer rows first.
    const count = Math.floor(n / nRows) + (row < n % nRows ? 1 : 0);
    // Few devices stay together in the middle of a wide picture.
    const span = Math.min(width, Math.max(count * WIDE * 1.75, width * 0.4));
    const left = (width - span) / 2;
    for (let i = 0; i < count; i++) {
      const at = row % 2 === 0 ? i : count - 1 - i;
      points.push({ x: left + (span * (at + 0.5)) / count, y: above + row * step });
    }
  }
  return { height: above + (nRows - 1) * step + below, room: Math.min(width / Math.ceil(n / nRows), WIDE * 1.2) - 8, half, nRows, points };
}

/** A way as SVG draws it, and the middle of it. */
export interface Way {
  d: string;
  middle: Point;
}

/**
 * The way from one device to another: almost straight between neighbours, and over the heads of those between. There and back are two
 * ways that keep to their own sides.
 */
export function curve(from: Point, to: Point, isNeighbour: boolean): Way {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const [x, y] = [(from.x + to.x) / 2, (from.y + to.y) / 2];
  if (!isNeighbour && Math.abs(dy) < 1) {
    // A curve of this kind rises to three quarters of its handles; there is a little air above it.
    const rise = Math.min(150, (from.y - 8) / 0.75) * (dx > 0 ? 1 : 0.85);
    const d = `M${from.x} ${from.y}C${from.x + dx * 0.12} ${from.y - rise} ${to.x - dx * 0.12} ${to.y - rise} ${to.x} ${to.y}`;
    return { d, middle: { x, y: y - rise * 0.75 } };
  }
  const far = Math.hypot(dx, dy) || 1;
  const bow = Math.min(22, far * 0.12);
  const [sx, sy] = [(dy / far) * bow, (-dx / far) * bow];
  return { d: `M${from.x} ${from.y}Q${x + sx} ${y + sy} ${to.x} ${to.y}`, middle: { x: x + sx / 2, y: y + sy / 2 } };
}

/** The ways that a token takes: from who drives the answer through the stages and back; none within one device. */
export function hops(driver: string, stages: string[]): [string, string][] {
  const way = [driver, ...stages, driver];
  const pairs = way.slice(1).map((to, i): [string, string] => [way[i] ?? driver, to]);
  return pairs.filter(([from, to]) => from !== to);
}

/** The order in which devices stand: this one, then along the models that run, then the others by their names. */
export function order<D extends { id: string; name: string; is_self: boolean }>(devices: D[], placements: string[][]): D[] {
  const ids = new Set(devices.filter((it) => it.is_self).map((it) => it.id));
  for (const stages of placements) {
    // A ring has no beginning: it is entered at this device.
    const own = Math.max(0, stages.findIndex((id) => ids.has(id)));
    for (const id of [...stages.slice(own), ...stages.slice(0, own)]) ids.add(id);
  }
  const rank = [...ids];
  const place = (it: D) => (ids.has(it.id) ? rank.indexOf(it.id) : rank.length);
  return [...devices].sort((a, b) => place(a) - place(b) || a.name.localeCompare(b.name) || a.id.localeCompare(b.id));
}
