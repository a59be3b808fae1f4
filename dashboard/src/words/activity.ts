/** What the page `activity` says. */
export const activity = {};
