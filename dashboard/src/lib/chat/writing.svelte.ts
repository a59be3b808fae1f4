/** An answer while it is being written, as this page hears it. */
import type { Sink, Status } from "./answer";

/** What is told of an answer under way; `away` while the node is not reachable. */
export type Stage = "sent" | "queued" | "writing" | "healing" | "away";

/** Text goes to the page this often at most: a frame for short answers, less often for long ones, which cost more to show. */
const LONG_CHARS = 20_000;
const LONG_PAUSE_MS = 120;

export class Writing implements Sink {
  text = $state("");
  stage: Stage = $state("sent");
  /** Requests before this one. */
  position = $state(0);
  /** Why it heals. */
  why = $state("");
  nHealed = $state(0);
  healedMs = $state(0);
  nTokens = $state(0);
  /** By this device's clock; `null` where its beginning was not seen. */
  firstTokenMs: number | null = $state(null);
  tokensPerS: number | null = $state(null);
  /** How long it thought, once it has stopped to. */
  thoughtMs: number | null = $state(null);
  isOver = $state(false);
  completion: string | null = $state(null);
  /** What has to be done as soon as it has a name. */
  onNamed: ((completion: string) => void) | null = null;
  readonly leaving = new AbortController();
  /** Where it was the page's own question: its beginning was seen. */
  readonly #isOwn: boolean;
  readonly #begunAt = performance.now();
  #firstAt: number | null = null;
  #all = "";
  #timer: number | null = null;
  #latest: Exclude<Stage, "away"> = "sent";

  constructor(isOwn: boolean, text = "") {
    this.#isOwn = isOwn;
    this.#all = text;
    this.text = text;
    if (!isOwn) this.#say("writing");
  }

  /** What has come, also what is not shown yet. */
  get whole(): string {
    return this.#all;
  }

  named(completion: string): void {
    this.completion = completion;
    this.onNamed?.(completion);
  }

  restarted(): void {
    this.#all = "";
    this.nTokens = 0;
    this.nHealed = 0;
    this.healedMs = 0;
    this.#firstAt = null;
  }

  wrote(piece: string): void {
    const now = performance.now();
    this.#all += piece;
    this.nTokens += 1;
    if (this.#firstAt === null) {
      this.#firstAt = now;
      if (this.#isOwn) this.firstTokenMs ??= now - this.#begunAt;
    } else if (this.#isOwn && now > this.#firstAt) {
      this.tokensPerS = ((this.nTokens - 1) / (now - this.#firstAt)) * 1000;
    }
    if (this.thoughtMs === null && this.#isOwn && piece.includes(">") && this.#all.includes("</think")) this.thoughtMs = now - this.#firstAt;
    if (this.#latest !== "writing") this.#say("writing");
    this.#show();
  }

  status(status: Status): void {
    if (status.state === "queued") {
      this.position = status.position;
      this.#say("queued");
    } else if (status.state === "healing") {
      this.why = status.why;
      this.#say("healing");
    } else if (status.state === "resumed") {
      this.nHealed += 1;
      this.healedMs += status.pause_ms;
      this.#say("writing");
    } else {
      this.#say("sent");
    }
  }

  waiting(isWaiting: boolean): void {
    this.stage = isWaiting ? "away" : this.#latest;
  }

  /** Nothing more comes. */
  end(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.text = this.#all;
    this.isOver = true;
  }

  #say(stage: Exclude<Stage, "away">): void {
    this.#latest = stage;
    this.stage = stage;
  }

  #show(): void {
    if (this.#timer !== null) return;
    const pause = this.#all.length > LONG_CHARS ? LONG_PAUSE_MS : 33;
    this.#timer = window.setTimeout(() => {
      this.#timer = null;
      this.text = this.#all;
    }, pause);
  }
}
