"""What exported models have in JavaScript: `model.js` calls a module."""
