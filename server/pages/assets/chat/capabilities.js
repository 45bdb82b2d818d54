// What a model can do, as its card of /v1/models says.

/** Whether a conversation can be held with it. A model that has not been loaded yet says nothing of it. */
export function canChat(card) {
  const can = card.headrace?.capabilities ?? [];
  return can.length === 0 || can.includes("completion");
}
