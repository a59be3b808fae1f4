/** Amounts as people read them. */

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** `1.2 GB`: powers of 1000, as disks and downloads are sold. */
export function bytes(n: number): string {
  let unit = 0;
  let value = n;
  while (Math.abs(value) >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.5 ? 0 : value >= 9.95 || unit < 3 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit] ?? "B"}`;
}

/** `8.1`, `120`: as many digits as mean something. */
export function rate(perSecond: number): string {
  return perSecond >= 99.5 ? perSecond.toFixed(0) : perSecond >= 9.95 ? perSecond.toFixed(0) : perSecond.toFixed(1);
}

/** `40 ms`, `2.5 s`, `3 min`, `2 h 5 min`. */
export function duration(ms: number): string {
  if (ms < 999.5) return `${ms < 9.95 && ms > 0 ? ms.toFixed(1) : Math.round(ms).toString()} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 59_500) return `${Math.round(ms / 1000)} s`;
  const minutes = Math.round(ms / 60_000);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  return `${Math.round(hours / 24)} days`;
}

/** `1.1 B`: parameters. */
export function parameters(n: number): string {
  if (n >= 999.5e6) return `${(n / 1e9).toFixed(n >= 9.95e9 ? 0 : 1)} B`;
  return n >= 1e6 ? `${Math.round(n / 1e6)} M` : `${Math.round(n / 1e3)} k`;
}

export function percent(part: number, whole: number): number {
  return whole > 0 ? Math.min(100, Math.max(0, Math.round((part / whole) * 100))) : 0;
}

/** Layers as people count them: `[0, 8)` is 1–8. */
export function layers([start, end]: [number, number]): string {
  return end - start === 1 ? `${end}` : `${start + 1}–${end}`;
}

/** The last part of a name with an owner, or of a path. */
export function shortName(model: string): string {
  return model.includes("/") ? model.slice(model.lastIndexOf("/") + 1) : model;
}

/** `14:03`, and the day where it is not today. */
export function moment(ms: number, now = Date.now()): string {
  const date = new Date(ms);
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date(now).toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${time}`;
}
