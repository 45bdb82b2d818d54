"""`headrace synthesize`: makes training lines by a recipe, with a model, a server or a teacher."""
