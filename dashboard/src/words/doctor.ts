/** What the page `doctor` says. */
import { duration } from "../lib/format";

export const doctor = {
  asking: "Looking at the network. That takes a few seconds.",
  well: "Everything that could be checked is as it should be.",
  trouble: (problems: number, warnings: number) => {
    const parts = [
      ...(problems > 0 ? [problems === 1 ? "One thing is wrong" : `${problems} things are wrong`] : []),
      ...(warnings > 0 ? [warnings === 1 ? "one is worth a look" : `${warnings} are worth a look`] : []),
    ];
    const text = parts.join(", ");
    return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
  },
  run: "Check again",
  copy: "Copy the report",
  copied: "The report was copied. It holds no token and no ticket.",
  network: "Network and cluster",
  page: "This page",
  skipped: (n: number) => (n === 1 ? "One check had nothing to judge by" : `${n} checks had nothing to judge by`),
  states: { ok: "well", warning: "look", problem: "wrong", skipped: "not judged" },
  todo: "What to do",
  doctor: "The same on the command line",
  command: "shoal doctor",

  stream: {
    title: "The page hears what changes",
    ok: "The stream of events is open.",
    lost: "The stream of events is broken: what you see may be old.",
    todo: "See that Shoal still runs on this device, and that you are on its network. The page tries again by itself.",
  },
  answers: {
    title: "The node answers quickly",
    took: (ms: number) => `It answered within ${duration(ms)}.`,
    slow: (ms: number) => `It took ${duration(ms)} to answer.`,
    todo: "It may be busy with a model, or the WiFi is weak where you are.",
    none: "It does not answer.",
  },
  clock: {
    title: "This browser's clock agrees with the node's",
    ok: "They differ by less than a minute.",
    off: (ms: number) => `They differ by ${duration(ms)}.`,
    todo: "Times in chats and charts look wrong until both devices set their clocks by the network.",
    unknown: "The node did not tell the time.",
  },
  address: {
    title: "How the page is opened",
    here: "On the device itself.",
    secure: "Over an encrypted connection.",
    plain: "From another device, over plain HTTP: whoever listens on this network can read along.",
    todo: "That is usual at home. In a network that you do not trust, open the page on the device itself.",
  },
  report: { title: "Shoal: what the doctor found", at: (time: string, version: string) => `${time}, version ${version}` },
};
