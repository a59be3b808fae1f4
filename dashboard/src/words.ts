/**
 * Everything that the page says, in one place: English. Each page has a file of its own in `words/`.
 *
 * Sentences with a number or a name in them are functions, so that another language may order them as it needs.
 */
import { activity } from "./words/activity";
import { chat } from "./words/chat";
import { doctor } from "./words/doctor";
import { home } from "./words/home";
import { integrations } from "./words/integrations";
import { models } from "./words/models";
import { settings } from "./words/settings";

/** `1 device`, `3 devices`. */
export function count(n: number, one: string, many: string): string {
  return `${n} ${n === 1 ? one : many}`;
}

export const words = {
  name: "Shoal",
  skip: "Skip to the page",
  nav: "Pages",
  pages: {
    home: "Home",
    chat: "Chat",
    models: "Models",
    activity: "Activity",
    doctor: "Doctor",
    integrations: "Integrations",
    settings: "Settings",
  },
  more: "More",
  close: "Close",
  cancel: "Cancel",
  copy: "Copy",
  copied: "Copied",
  notCopied: "The browser does not let this page copy. Select the text and copy it by hand.",
  again: "Try again",
  loading: "One moment…",
  dismiss: "Dismiss",
  theme: { dark: "Dark colours", light: "Light colours" },
  nowhere: {
    title: "There is no such page",
    text: "The address names a page that this version of Shoal does not have.",
    home: "Go home",
  },
  connection: {
    lost: "The connection to this device is lost. What you see may be old.",
    now: "Try now",
  },
  token: {
    title: "This device asks for its token",
    text: "It was opened to the local network with `shoal serve --lan`, which printed the token. `shoal serve --lan` also shows a QR code that needs no typing.",
    label: "Token",
    enter: "Enter",
    wrong: "That is not the token of this device.",
    often: "Too many wrong tokens. Wait a minute, then try again.",
  },
  activity,
  chat,
  doctor,
  home,
  integrations,
  models,
  settings,
};
