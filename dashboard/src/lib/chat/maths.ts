/** Formulas as MathML elements; loaded when the first formula is shown. */
import temml from "temml";

/** More is no formula. */
const CHARS_MAX = 4000;

/** Puts a formula into `target`. Returns whether it could be read; if not, `target` is as empty as before. */
export function show(source: string, isBlock: boolean, target: HTMLElement): boolean {
  if (source.length > CHARS_MAX) return false;
  const holder = document.createElement("span");
  try {
    // Without trust there are no links, pictures or classes; the bounds stop what would grow for ever.
    temml.render(source, holder, { displayMode: isBlock, throwOnError: true, trust: false, maxSize: [40, 40], maxExpand: 200 });
  } catch {
    return false;
  }
  target.replaceChildren(...holder.childNodes);
  return true;
}
