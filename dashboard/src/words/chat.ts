/** What the page `chat` says. */
export const chat = {};
