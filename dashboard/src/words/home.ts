/** What the page `home` says. */
import { bytes, duration, layers, rate } from "../lib/format";

const devices = (n: number) => (n === 1 ? "1 device" : `${n} devices`);
const list = (names: string[]) =>
  names.length <= 1 ? (names[0] ?? "") : `${names.slice(0, -1).join(", ")} and ${names[names.length - 1] ?? ""}`;

const layersOf = (range: [number, number]) => `${range[1] - range[0] === 1 ? "layer" : "layers"} ${layers(range)}`;

export const home = {
  // The sentence on top.
  waiting: "Looking for your devices…",
  alone: "One device, and nothing runs on it yet",
  idle: (n: number) => `${devices(n)}, and nothing runs on them yet`,
  ready: (n: number, models: string[], perSecond: number | null) =>
    `${devices(n)}, ${list(models)} ready${perSecond === null ? "" : `, ${rate(perSecond)} tokens/s`}`,
  answering: (n: number, models: string[], perSecond: number) =>
    `${devices(n)}, ${list(models)} answers at ${rate(perSecond)} tokens/s`,
  bringing: (model: string, percent: number | null) =>
    `${model} is on its way${percent === null ? "" : `: ${percent} %`}`,
  healing: (model: string) => `${model} lost a device: the others take over its part`,
  failed: (model: string) => `${model} cannot run`,
  // The line below it.
  gone: (names: string[]) => `${list(names)} cannot be reached.`,
  quiet: (names: string[]) => `Nothing heard from ${list(names)} for a moment.`,
  leaving: (names: string[]) => `${list(names)} ${names.length === 1 ? "gives its" : "give their"} part of the models to the others.`,
  well: "Everything is as it should be.",
  choose: "Choose a model to begin.",

  picture: "Your devices",
  described: (parts: string[]) => `A picture of your devices and the links between them. ${parts.join(". ")}.`,
  describe: (name: string, state: string, held: string[]) => [name, state, ...held].join(", "),
  add: "Add a device",
  toModels: "Choose a model",
  toChat: "Chat",
  linkLabel: (rttMs: number, perSecond: number) => (perSecond < 500 ? duration(rttMs) : `${duration(rttMs)} · ${bytes(perSecond)}/s`),
  glance: (battery: number | null, isCharging: boolean, heat: number | null) =>
    [
      ...(battery === null ? [] : [`${battery} %${isCharging ? " charging" : ""}`]),
      ...(heat === null ? [] : [`${Math.round(heat)} °C`]),
    ].join(" · "),
  free: (n: number) => `${bytes(n)} free`,
  part: (range: [number, number], all: number) =>
    range[0] === 0 && range[1] >= all ? "all layers" : layersOf(range),
  partOf: (model: string, range: [number, number], all: number) =>
    range[0] === 0 && range[1] >= all ? `all of ${model}` : `${model} ${layers(range)}`,
  suggestion: (model: string, text: string) => `${model} could be faster if it moved: ${text}.`,
  table: "Devices",
  self: "this one",
  holds: (model: string, range: [number, number], all: number, nCopies: number) => {
    const what = range[0] === 0 && range[1] >= all ? `${model}, all ${all} layers` : `${model}, ${layersOf(range)} of ${all}`;
    return nCopies === 1 ? what : `${what}, ${nCopies} times`;
  },
  spare: "Holds no part of a model now",
  states: { alive: "here", suspect: "quiet for a moment", dead: "not reachable" },
  /** What a state means for the reader. */
  explain: {
    well: "",
    lost: "The others go on without it. It comes back by itself once it runs and can be reached again. If it is gone for good, remove it.",
    quiet: "It has said nothing for a moment: its screen may sleep, or its WiFi is weak. If it comes back within a few seconds, nothing has changed.",
    leaving: "The others fetch its layers first and then take over. Answers go on.",
    stuck: "The part of the program that computes here ended and is started again. If it keeps failing, the others take over.",
    healing: "A device of this model was lost. This one helps to take over its part; answers wait for a moment and then go on.",
    hot: "It slows down when it is hot. Out of its case, in the shade or on a cool surface it is faster.",
    low: "It gives its layers away before it runs empty. Plugged in, it goes on.",
  },
  hot: "hot",
  low: "battery low",
  takesOver: "taking over",
  runners: { starting: "starting", ready: "ready", restarting: "starting again", "given up": "keeps failing" },
  draining: {
    asked: "handing over",
    ending: "ending, hands over",
    hot: "too hot, hands over",
    low_battery: "battery low, hands over",
    low_memory: "short of memory, hands over",
  } as Record<string, string>,
  facts: {
    memoryUsed: (n: number, all: number) => `${bytes(n)} of ${bytes(all)} memory in use, ${bytes(Math.max(0, all - n))} free`,
    load: "Processor",
    percent: (n: number) => `${n} % busy`,
    heat: "Temperature",
    degrees: (c: number) => `${Math.round(c)} °C`,
    battery: "Battery",
    charge: (n: number, isCharging: boolean) => `${n} %${isCharging ? ", charging" : ""}`,
    speed: "Speed",
    perSecond: (n: number) => `reads ${bytes(n)}/s`,
    link: "Link",
    rtt: (ms: number) => `${duration(ms)} away`,
    traffic: (down: number, up: number) => `${bytes(down)}/s in, ${bytes(up)}/s out`,
    moved: (down: number, up: number) => `${bytes(down)} in, ${bytes(up)} out`,
    more: "All about it",
    disk: "On its disk",
    none: "no models",
    layersOnly: (text: string) => (text === "" ? "partly" : `layers ${text}`),
    restartsName: "Runner",
    restarts: (n: number) => (n === 1 ? "started again once" : `started again ${n} times`),
    total: "Sent here",
    device: "Device",
    program: "Program",
    addresses: "Addresses",
    noAddress: "none known",
    id: "Its key",
  },
  act: {
    more: (name: string) => `About ${name}`,
    of: (name: string) => `What to do with ${name}`,
    drain: "Empty it",
    undrain: "Let it work again",
    forget: "Remove",
    titles: {
      drain: "Empty this device?",
      undrain: "Let this device work again?",
      forget: "Remove this device for good?",
    },
    drainText: (held: string[]) => `Its part of ${list(held)} moves to the others, who fetch what they lack before anything changes over.`,
    drainAnswers: "Answers under way go on.",
    drainAlone: (name: string, held: string[]) =>
      `No other device can take over ${list(held)}. ${name} keeps what it holds until one comes, and then hands it over.`,
    drainNothing: (name: string) => `${name} holds no part of a model now, so nothing has to move.`,
    drainAfter: "It gets no more layers until you let it work again. Then it can be switched off or taken along.",
    undrainText: (name: string) => `${name} may hold parts of models again. Nothing moves to it by itself unless that is much faster.`,
    forgetText: (name: string) => `${name} is refused from now on.`,
    forgetHeld: (held: string[]) => `It holds a part of ${list(held)}: the others have to fetch that, and answers wait until they have.`,
    forgetTickets: "Every invitation that was given out is void.",
    forgetFiles: "Its own files stay on it.",
    done: {
      drain: (name: string) => `${name} hands its layers over.`,
      undrain: (name: string) => `${name} works again.`,
      forget: (name: string) => `${name} was removed.`,
    },
  },
  invite: {
    title: "Add a device",
    intro: "Install Shoal on the new device, then run this there:",
    command: "The command for the new device",
    qr: "The ticket as a QR code",
    scan: "A camera reads the ticket from the code. A device on which Shoal runs already joins by “shoal join” and the ticket.",
    lasts: "Good for",
    periods: [
      { seconds: 3600, text: "1 hour" },
      { seconds: 86_400, text: "1 day" },
      { seconds: 604_800, text: "7 days" },
    ],
    forever: "no end",
    once: "For one device only",
    onceHint: "Whoever has the ticket can join. This one is used up by the first.",
    left: (ms: number) => `${duration(ms)} left`,
    endless: "This ticket does not end by itself.",
    over: "This ticket has ended.",
    isUsed: "This ticket has been used.",
    isVoid: "This ticket is void.",
    again: "Make another",
    making: "Making a ticket…",
    waits: "Waiting for the new device…",
    joined: (names: string[]) => `${list(names)} ${names.length === 1 ? "has" : "have"} joined.`,

    brings: "What it will bring",
    memory: "Its memory, for larger models or longer conversations.",
    safety: "Safety: answers go on when one device is lost.",
    first: "Safety: with a second device, answers can go on when one is lost.",
    fits: (model: string, missing: number) => `${model} lacks ${bytes(missing)} of memory here: a device that gives as much makes room for it.`,
    planner: (model: string, text: string) => `${model} ${text}.`,

    open: "Other invitations that are open",
    until: (when: string) => `until ${when}`,
    made: (when: string) => `made ${when}`,
    single: "one device",
    used: (names: string[]) => `used by ${list(names)}`,
    someone: "a device",
    revoke: "Make void",
    revokeOf: (when: string) => `Make void: the invitation of ${when}`,
    revoked: "The invitation is void.",
  },
};
