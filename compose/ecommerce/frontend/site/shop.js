// The products of the shop, and an order for one of them.
const message = document.getElementById('message');

function cell(text, number) {
  const cell = document.createElement('td');
  cell.textContent = text;
  if (number) cell.className = 'number';
  return cell;
}

async function show() {
  const answer = await fetch('/api/products');
  const { products } = await answer.json();
  document.getElementById('products').replaceChildren(...products.map((product) => {
    const row = document.createElement('tr');
    const order = document.createElement('button');
    order.textContent = 'Order';
    order.onclick = () => place(product);
    const last = cell('');
    last.append(order);
    row.append(cell(product.name), cell((product.cents / 100).toFixed(2), true), cell(product.stock, true), last);
    return row;
  }));
}

async function place(product) {
  const answer = await fetch('/api/orders', {
    method: 'POST',
    // A repeated request with the same key is the same order.
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` },
    body: JSON.stringify({ customer: 'browser', items: [{ product: product.id, quantity: 1 }] }),
  });
  const order = await answer.json();
  message.textContent = answer.ok ? `Order ${order.id}, taken by ${order.server}.` : order.error;
  await show();
}

show();
