// Addresses of the dashboard's places: "#/" is the overview, "#/requests/ID" a request, "#/jobs" all jobs, "#/jobs/ID" one, "#/models" the models.

export const requestLink = (id) => `#/requests/${encodeURIComponent(id)}`;
/** The chat page with this model chosen. */
export const chatLink = (model) => `./?model=${encodeURIComponent(model)}`;
export const jobLink = (id) => `#/jobs/${encodeURIComponent(id)}`;

const ONE = { requests: "request", jobs: "job" };
const ALL = { jobs: "jobs", models: "models" };

/** The place that `hash` names: {name, id}, by default the overview. */
export function placeOf(hash) {
  const [, room, id] = hash.match(/^#\/([a-z]+)\/?(.*)$/s) ?? [];
  if (id && ONE[room]) return { name: ONE[room], id: decoded(id) };
  return { name: ALL[room] ?? "overview", id: null };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a % that begins no code
  }
}
