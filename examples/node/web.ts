// Express: a page with a cached query, and mails that are sent by the worker of shop.ts. Run it with `node web.js`.

import express from 'express';
import { addToCart, corral, db, product, signUp } from './shop.js';

const app = express();
app.use(express.json());

app.get('/products/:id', async (request, response) => {
  const found = await product(Number(request.params.id));
  if (found === null) response.sendStatus(404);
  else response.json(found);
});

app.put('/products/:id', async (request, response) => {
  const { name, price } = request.body as { name: string; price: number };
  const id = Number(request.params.id);
  db.run('INSERT OR REPLACE INTO products VALUES (?, ?, ?)', [id, name, price]);
  await product.invalidate(id);
  response.json({ id });
});

app.post('/customers', async (request, response) => {
  response.json({ task: await signUp((request.body as { email: string }).email) });
});

app.post('/carts', async (request, response) => {
  const { email, item } = request.body as { email: string; item: string };
  response.json({ task: await addToCart(email, item) });
});

const server = app.listen(Number(process.env['PORT'] ?? 3000), '127.0.0.1');
process.once('SIGTERM', () => {
  server.close();
  void corral.close();
});
