/** What the page `doctor` says. */
export const doctor = {};
