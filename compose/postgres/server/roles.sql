-- Who checks: it may log in, and no more.
CREATE ROLE pointsman LOGIN PASSWORD 'pointsman';
