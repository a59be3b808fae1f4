/** Chats by the day of their last change, as people remember them. */

export interface Group<T> {
  key: string;
  /** `today`, `yesterday`, `week`, or the first day of a month. */
  when: "today" | "yesterday" | "week" | Date;
  items: T[];
}

const DAY_MS = 86_400_000;

/** Groups what is sorted newest first. Days are this device's, whatever its clock is changed for. */
export function byDay<T extends { changed_ms: number }>(items: readonly T[], now = Date.now()): Group<T>[] {
  const today = new Date(now);
  today.setHours(0, 0, 0, 0);
  const groups: Group<T>[] = [];
  for (const item of items) {
    const when = period(item.changed_ms, today);
    const key = typeof when === "string" ? when : when.toISOString().slice(0, 10);
    const last = groups[groups.length - 1];
    if (last?.key === key) last.items.push(item);
    else groups.push({ key, when, items: [item] });
  }
  return merged(groups);
}

/** Two groups of one name happen where a clock went backwards. */
function merged<T>(groups: Group<T>[]): Group<T>[] {
  const byKey = new Map<string, Group<T>>();
  for (const group of groups) {
    const before = byKey.get(group.key);
    if (before === undefined) byKey.set(group.key, group);
    else before.items.push(...group.items);
  }
  return [...byKey.values()];
}

function period(ms: number, today: Date): Group<unknown>["when"] {
  const day = new Date(ms);
  day.setHours(0, 0, 0, 0);
  // Rounded, since a day of a clock change has 23 or 25 hours.
  const nDays = Math.round((today.getTime() - day.getTime()) / DAY_MS);
  if (nDays <= 0) return "today";
  if (nDays === 1) return "yesterday";
  if (nDays < 7) return "week";
  return new Date(Date.UTC(day.getFullYear(), day.getMonth(), 1));
}
