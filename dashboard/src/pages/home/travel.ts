/** Activations on their way: dots that run along the links when a token is made, by the browser's own animations. */
import type { Made } from "./types";

/** No more at a time: a phone shows this page, too. */
const AT_ONCE = 40;
/** Tokens of one event that get dots of their own, and the pause between two. */
const TRAIN = 3;
const PAUSE_MS = 90;
/** For one hop, and for the whole way, in milliseconds: what really takes a millisecond could not be seen. */
const HOP_MS = 380;
const WAY_MAX_MS = 1800;
const HALO_MS = 700;
/** Points of a way between which dots go straight. */
const STEPS = 10;

const NAMESPACE = "http://www.w3.org/2000/svg";

/** The links of a picture, by `from>to`, and what lights up at each device. */
export interface Stage {
  links: Map<string, SVGPathElement>;
  halos: Map<string, SVGElement>;
  /** Where dots are put. */
  layer: SVGGElement;
  colourOf: (id: string) => string;
}

export class Travel {
  #nUnderWay = 0;

  /** Shows what was made; `hops` are the ways that each token took. */
  show(stage: Stage, made: Made, hops: [string, string][]): void {
    if (window.matchMedia("(prefers-reduced-motion: reduce)").matches || document.hidden) return;
    // What the first device computed begins there at once.
    const [first] = made.stages;
    if (first !== undefined) this.#light(stage.halos.get(first), 0);
    if (hops.length === 0) return;
    const ways = hops.map(([from, to]) => stage.links.get(`${from}>${to}`));
    if (ways.some((it) => it === undefined)) return;
    const paths = ways as SVGPathElement[];
    if (made.n_prompt > 0) this.#send(stage, hops, paths, 6, 0);
    for (let i = 0; i < Math.min(made.n_tokens, TRAIN); i++) this.#send(stage, hops, paths, 3.25, i * PAUSE_MS);
  }

  #send(stage: Stage, hops: [string, string][], paths: SVGPathElement[], radius: number, delay: number): void {
    if (this.#nUnderWay >= AT_ONCE) return;
    const dot = document.createElementNS(NAMESPACE, "circle");
    dot.setAttribute("r", String(radius));
    dot.setAttribute("opacity", "0");
    stage.layer.append(dot);
    this.#nUnderWay += 1;
    const duration = Math.min(WAY_MAX_MS, HOP_MS * hops.length);
    const frames: Keyframe[] = [];
    for (const [i, path] of paths.entries()) {
      const [from, to] = hops[i] ?? ["", ""];
      const length = path.getTotalLength();
      for (let step = 0; step <= STEPS; step++) {
        const { x, y } = path.getPointAtLength((length * step) / STEPS);
        const offset = (i + step / STEPS) / paths.length;
        // It leaves one device in its colour and comes to the next, which it takes no colour from before it is there.
        frames.push({ transform: `translate(${x}px, ${y}px)`, opacity: step === 0 || step === STEPS ? 0 : 0.95, offset, fill: stage.colourOf(from) });
      }
      this.#light(stage.halos.get(to), delay + (duration * (i + 1)) / paths.length);
    }
    const animation = dot.animate(frames, { duration, delay });
    const over = (): void => {
      dot.remove();
      this.#nUnderWay -= 1;
    };
    animation.onfinish = over;
    animation.oncancel = over;
  }

  /** Lets a device light up. */
  #light(halo: SVGElement | undefined, delay: number): void {
    halo?.animate(
      [
        { opacity: 0, transform: "scale(0.7)" },
        { opacity: 0.22, transform: "scale(1)", offset: 0.25 },
        { opacity: 0, transform: "scale(1.2)" },
      ],
      { duration: HALO_MS, delay, easing: "ease-out" },
    );
  }
}
