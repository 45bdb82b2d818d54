// Addresses of the dashboard's places: "#/" is the overview, "#/requests/ID" the page of a request.

const PREFIX = "#/requests/";

export const requestLink = (id) => PREFIX + encodeURIComponent(id);

/** The id of the request whose page `hash` is; null for the overview. */
export function requestOf(hash) {
  if (!hash.startsWith(PREFIX) || hash.length === PREFIX.length) return null;
  try {
    return decodeURIComponent(hash.slice(PREFIX.length));
  } catch {
    return hash.slice(PREFIX.length); // a % that begins no code
  }
}
