/** Numbers as people write them, in the unit that is shown. */

export interface Bounds {
  min: number;
  max: number;
  /** Of the setting's own unit in one that is shown. */
  scale: number;
  /** Nothing means no limit. */
  isOptional: boolean;
}

/** How a value stands in its box. */
export function shown(value: number | null, scale: number): string {
  return value === null ? "" : String(Math.round((value / scale) * 100) / 100);
}

/** What is meant by what is in the box; `undefined` if that is no value of the setting. */
export function meant(text: string, { min, max, scale, isOptional }: Bounds): number | null | undefined {
  const written = text.trim().replace(",", ".");
  if (written === "") return isOptional ? null : undefined;
  // Number() would take hexadecimal digits and spaces for numbers, too.
  if (!/^-?\d+(\.\d+)?$/.test(written)) return undefined;
  const value = Math.round(Number(written) * scale);
  const isWhole = scale !== 1 || Number.isInteger(Number(written));
  return isWhole && value >= min && value <= max ? value : undefined;
}
